import type { ServiceImpl } from "@connectrpc/connect";
import { Access, RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { createEdge } from "../../src/edge/server.ts";
import { entry } from "../../src/edge/service-entry.ts";
import { createLimiter } from "../../src/rpc/limiter.ts";
import { openPolicy } from "../../src/rpc/policy.ts";
import type { Principal } from "../../src/rpc/principal.ts";
import { createSteps, type Steps } from "../../src/rpc/steps.ts";
import { BenchService } from "../../test/gen/callora/test/v1/bench_service_pb.ts";
import { bearer, verify } from "./calls.ts";

/** The edge, with no steps around a call or with all. */
export async function startEdgeServer({ steps }: { steps: "none" | "all" }): Promise<number> {
  const policy =
    steps === "none"
      ? openPolicy
      : { ...openPolicy, access: Access.API_KEY, rateClass: RateClass.VERIFY };
  const edge = createEdge({
    services: [entry(BenchService, benchService(), policy)],
    steps: steps === "none" ? noSteps : allSteps(),
    onFinish: () => {},
    onError: (error) => console.error(error),
  });
  const { port } = await edge.listen({ host: "127.0.0.1", port: 0 });
  return port;
}

const noSteps: Steps = {
  admit() {},
  around: (_call, handler) => handler(),
  validated: (_desc, messages) => messages,
  whileAdmitted: (_call, messages) => messages,
};

function allSteps(): Steps {
  const keys = new Map<string, Principal>([
    [
      `Bearer ${bearer}`,
      {
        kind: "key",
        id: "key_1",
        familyId: "key_1",
        createdBy: "usr_1",
        accountId: "acc_1",
        apiId: "api_1",
        mode: "live",
        scopes: [],
      },
    ],
  ]);
  let nowMs = Date.now();
  return createSteps({
    authenticators: [({ header }) => keys.get(header.get("authorization") ?? "")],
    limiter: createLimiter(),
    // As long after the call before that the limiter lets each of them pass.
    now: () => {
      nowMs += 10;
      return new Date(nowMs);
    },
    auditRefusal: async () => {},
    onInternalError: (_call, error) => console.error(error),
  });
}

/** The calls of the bench as a service of Connect. */
export function benchService(): ServiceImpl<typeof BenchService> {
  return {
    verifyKey: verify,
    checkKey: ({ keyId, cost }) => verify({ key: keyId, cost }),
  };
}
