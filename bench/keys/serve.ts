// VerifyKey behind the edge with all steps, in a process of its own: `serve.ts APP_URL WORKER_URL` prints its port,
// and for each line that it reads the bytes of its heap.
import { createInterface } from "node:readline";
import { KeyService } from "../../gen/callora/keys/v1/key_service_pb.ts";
import { openTrust } from "../../src/db/trust.ts";
import { createEdge } from "../../src/edge/server.ts";
import { entry } from "../../src/edge/service-entry.ts";
import { createQuotas } from "../../src/keys/quota.ts";
import { keyService } from "../../src/keys/service.ts";
import { createUseLog } from "../../src/keys/use-log.ts";
import { createVerifier } from "../../src/keys/verify.ts";
import { startLoop } from "../../src/lib/loop.ts";
import { createLimiter } from "../../src/rpc/limiter.ts";
import type { Principal } from "../../src/rpc/principal.ts";
import { createSteps } from "../../src/rpc/steps.ts";
import { openDatabase } from "../../src/server.ts";
import { bearer } from "../edge/calls.ts";

const [app = "", worker = ""] = process.argv.slice(2);
const now = () => new Date();
const db = await openDatabase({ app, worker, owner: "" });
const trust = await openTrust({ db, listenUrl: worker, onError: console.error });
const [limiter, useLog] = [createLimiter(), createUseLog({ db })];
const verifier = createVerifier({
  db,
  trust,
  limiter,
  useLog,
  quotas: createQuotas({ db, now }),
  now,
});
startLoop({ tick: () => useLog.flush(), intervalMs: 5_000, onError: console.error });

const service: Principal = {
  kind: "service",
  id: "svc_1",
  accountId: "acc_1",
  scopes: ["keys.verify"],
  mode: "live",
};
const callers = new Map([[`Bearer ${bearer}`, service]]);
const edge = createEdge({
  services: [
    entry(
      KeyService,
      keyService({ db, trust, verifier, limiter, existsPublishedApi: async () => true, now }),
    ),
  ],
  steps: createSteps({
    authenticators: [({ header }) => callers.get(header.get("authorization") ?? "")],
    limiter: createLimiter(),
    now,
    auditRefusal: async () => {},
    onInternalError: (_call, error) => console.error(error),
  }),
  onFinish: () => {},
  onError: (error) => console.error(error),
});
const { port } = await edge.listen({ host: "127.0.0.1", port: 0 });
console.log(port);
const lines = createInterface({ input: process.stdin });
lines.on("line", () => {
  gc?.();
  console.log(process.memoryUsage().heapUsed + process.memoryUsage().external);
});
// The bench holds the other end, also when it dies.
lines.on("close", () => process.exit());
