import { Admission, type GatewayDeps } from "./admission.ts";
import { GatewayCall } from "./call.ts";
import { tellTerms } from "./error-headers.ts";
import type { Inbound, Passing } from "./inbound.ts";

/**
 * Pass consumers' calls on to the APIs' upstreams, and charge them.
 *
 * A reply ends only when the call's event is in the journal, but for APIs whose developers chose otherwise. A call is
 * charged by its price's rule; without one it is free when the upstream failed (status 500 and above, or no whole
 * reply), and a consumer that goes away once the call was sent pays.
 */
export function gatewayHandler(
  deps: GatewayDeps,
): (inbound: Inbound, passing: Passing) => void | Promise<void> {
  const begin = (admission: Admission) => new GatewayCall(admission).begin();
  return (inbound, passing) => {
    const admission = new Admission(deps, { inbound, passing }, begin);
    try {
      return admission.run()?.catch((error) => refuse(admission, error));
    } catch (error) {
      return refuse(admission, error);
    }
  };
}

function refuse(admission: Admission, error: unknown): never {
  admission.recall();
  tellTerms(admission, { chargedNanos: 0n, times: null });
  throw error;
}
