import { Access, RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import type { Config } from "./config.ts";
import type { Sealer } from "./credentials/seal.ts";
import { showLeases } from "./credits/lease-metrics.ts";
import { createLeaseBook } from "./credits/purse.ts";
import type { Database } from "./db/database.ts";
import type { Trust } from "./db/trust.ts";
import type { Mount } from "./edge/mount.ts";
import { rememberApis } from "./gateway/api.ts";
import { createAsyncCount, showAsyncCount } from "./gateway/async-count.ts";
import { createLeaseBook as createCallBook } from "./gateway/lease-book.ts";
import { createMonthUnits } from "./gateway/month-units.ts";
import { gatewayHandler } from "./gateway/proxy.ts";
import { createUpstreamClient, createUpstreams } from "./gateway/upstream.ts";
import type { Verifier } from "./keys/verify.ts";
import type { AddressPolicy } from "./lib/address.ts";
import { type Loop, startLoop } from "./lib/loop.ts";
import type { Logger } from "./log.ts";
import { shardCount, shardOf } from "./metering/entry.ts";
import type { Journal } from "./metering/journal.ts";
import type { Metrics } from "./metrics.ts";

/** What the gateway is built from. */
export interface GatewayPartsDeps {
  config: Pick<Config, "gateway">;
  db: Database;
  trust: Trust;
  sealer: Sealer;
  journal: Journal;
  verifier: Verifier;
  addresses: AddressPolicy;
  log: Logger;
  metrics: Metrics;
  /** The process, as leases name it. */
  holder: string;
  now: () => Date;
}

/** The gateway of one process. */
export interface GatewayParts {
  mounts: Mount[];
  start(): void;
  /** Give back what is leased, and let the upstreams go. No call is running any more. */
  stop(): Promise<void>;
}

/** Build the gateway: what it remembers, what it leases, what it calls, and its routes. */
export function gatewayParts(deps: GatewayPartsDeps): GatewayParts {
  const { config, db, trust, journal, verifier, addresses, holder, log, metrics, now } = deps;
  const { upstreamTimeoutMs: timeoutMs, connectionsMax, asyncPendingMax } = config.gateway;
  const nowMs = () => performance.now();
  const upstreams = createUpstreams({ addresses, connectionsMax, timeoutMs, nowMs });
  const apis = rememberApis({ ...deps, upstreams, timeoutMs });
  const monthUnits = createMonthUnits({ db, now });
  const asyncCount = createAsyncCount({ pendingMax: asyncPendingMax });
  const onError = (err: unknown) => log.warn("Cannot look after leases", { err });
  const book = createLeaseBook({
    db,
    trust,
    holder,
    shardOf: (accountId) => shardOf(accountId, shardCount),
    nowMs,
    onError,
  });
  showLeases(metrics.registry, book);
  showAsyncCount(metrics.registry, asyncCount);
  let leases: Loop | undefined;
  // The call that is made of these takes the place of the handler below.
  void [apis, monthUnits, asyncCount];
  const handler = gatewayHandler({
    db,
    journal,
    leases: createCallBook(book),
    client: createUpstreamClient({ addresses, timeoutMs }),
    countUse: (key) => verifier.count(key),
    watchKey: (key, onRefused) => verifier.watch(key, onRefused),
    now,
  });
  return {
    mounts: [callMount(handler)],
    start() {
      leases = startLoop({ tick: () => book.tick(), intervalMs: 1_000, onError });
    },
    async stop() {
      await leases?.stop();
      await book.stop();
      await upstreams.close();
    },
  };
}

function callMount(handler: Mount["handler"]): Mount {
  return {
    method: "ANY",
    pattern: "/v1/call/{api}/{path=**}",
    policy: {
      access: Access.API_KEY,
      auditAction: "",
      rateClass: RateClass.V1,
      successStatus: 0,
    },
    handler,
  };
}
