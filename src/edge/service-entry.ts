import { type DescMethod, type DescService, hasOption } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { method as policyOption } from "../../gen/callora/policy/v1/policy_pb.ts";
import { checkPolicy, methodName, methodPolicy, type Policy } from "../rpc/policy.ts";

/** A service and what implements it. Made by entry(). */
export interface ServiceEntry {
  readonly service: DescService;
  readonly implementation: Partial<ServiceImpl<DescService>>;
  /** For methods to which the contract gives no policy. */
  readonly policy: Policy | undefined;
}

/**
 * Pair a service with its implementation, all of its methods. `policy` is for services whose contract
 * is not ours and says nothing of policies.
 */
export function entry<Service extends DescService>(
  service: Service,
  implementation: ServiceImpl<Service>,
  policy?: Policy,
): ServiceEntry {
  return { service, implementation: implementation as Partial<ServiceImpl<DescService>>, policy };
}

/** The policy of each method, by name. Throws if a method has none, naming it. */
export function policiesOf(entries: readonly ServiceEntry[]): (name: string) => Policy {
  const policies = new Map<string, Policy>();
  for (const { service, policy } of entries) {
    for (const method of service.methods) {
      policies.set(methodName(method), policyFor(method, policy));
    }
  }
  return (name) => {
    const policy = policies.get(name);
    if (policy === undefined) {
      throw new Error(`Cannot serve ${name}: it has no policy`);
    }
    return policy;
  };
}

function policyFor(method: DescMethod, fallback: Policy | undefined): Policy {
  if (fallback === undefined || hasOption(method, policyOption)) {
    return methodPolicy(method);
  }
  return checkPolicy(methodName(method), fallback);
}
