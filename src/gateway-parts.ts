import { setTimeout } from "node:timers/promises";
import { Counter, Gauge } from "prom-client";
import { Access, RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import type { Config } from "./config.ts";
import type { Sealer } from "./credentials/seal.ts";
import { showLeases } from "./credits/lease-metrics.ts";
import { createLeaseBook } from "./credits/purse.ts";
import type { Database } from "./db/database.ts";
import type { Trust } from "./db/trust.ts";
import type { RawMount } from "./edge/mount.ts";
import type { GatewayWatch } from "./gateway/admission.ts";
import { rememberApis } from "./gateway/api.ts";
import { createAsyncCount, showAsyncCount } from "./gateway/async-count.ts";
import { createEndpointNames } from "./gateway/endpoint-names.ts";
import { gatewayHandler } from "./gateway/handler.ts";
import { createHeaderFilter } from "./gateway/headers.ts";
import { createRunning, type Running } from "./gateway/running.ts";
import { createUpstreams } from "./gateway/upstream.ts";
import type { Verifier } from "./keys/verify.ts";
import type { AddressPolicy } from "./lib/address.ts";
import { type Loop, startLoop } from "./lib/loop.ts";
import type { Logger } from "./log.ts";
import { shardCount, shardOf } from "./metering/entry.ts";
import type { Journal } from "./metering/journal.ts";
import type { MonthUnits } from "./metering/month-units.ts";
import type { Metrics } from "./metrics.ts";
import type { Strangers } from "./rpc/strangers.ts";

/** What the gateway is built from. */
export interface GatewayPartsDeps {
  config: Pick<Config, "gateway">;
  db: Database;
  trust: Trust;
  sealer: Sealer;
  journal: Journal;
  monthUnits: MonthUnits;
  verifier: Verifier;
  strangers: Strangers;
  addresses: AddressPolicy;
  log: Logger;
  metrics: Metrics;
  /** The process, as leases name it. */
  holder: string;
  now: () => Date;
}

/** The gateway of one process. */
export interface GatewayParts {
  mounts: RawMount[];
  start(): void;
  /** Give back what is leased, and let the upstreams go. No call is running any more. */
  stop(): Promise<void>;
}

/** Build the gateway: what it remembers, what it leases, what it calls, and its routes. */
export function gatewayParts(deps: GatewayPartsDeps): GatewayParts {
  const {
    config,
    db,
    trust,
    journal,
    monthUnits,
    verifier,
    strangers,
    addresses,
    holder,
    log,
    metrics,
    now,
  } = deps;
  const {
    upstreamTimeoutMs: timeoutMs,
    connectionsMax,
    asyncPendingMax,
    callsMax,
  } = config.gateway;
  const nowMs = () => performance.now();
  const upstreams = createUpstreams({ addresses, connectionsMax, timeoutMs, nowMs });
  const apis = rememberApis({ ...deps, upstreams, timeoutMs });
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
  const running = createRunning({ callsMax, nowMs });
  const raw = gatewayHandler({
    apis,
    book,
    journal,
    monthUnits,
    asyncCount,
    verifier,
    strangers,
    running,
    parts: upstreams.parts,
    filter: createHeaderFilter(),
    endpoints: createEndpointNames(),
    watch: watchCalls(metrics, { log, running }),
    now,
    nowMs,
  });
  let leases: Loop | undefined;
  let trimmer: NodeJS.Timeout | undefined;
  let unwatch: (() => void) | undefined;
  const { host } = config.gateway;
  return {
    mounts: [{ ...callRoute, host, raw, onShutdown: () => running.stopAll() }],
    start() {
      running.start();
      unwatch = verifier.onForgotten(() => running.recheck());
      trimmer = setInterval(() => upstreams.parts.trim(), 1_000).unref();
      leases = startLoop({ tick: () => book.tick(), intervalMs: 1_000, onError });
    },
    async stop() {
      unwatch?.();
      clearInterval(trimmer);
      running.close();
      await leases?.stop();
      await settle(running);
      await book.stop();
      await upstreams.close();
    },
  };
}

/** The longest that a process which stops waits for events of calls that were answered. */
const settleMsMax = 5_000;

/** Wait for events that are on their way: of calls that did not wait for them, and of consumers who left. */
async function settle(running: Running): Promise<void> {
  const endMs = performance.now() + settleMsMax;
  while (running.settling > 0 && performance.now() < endMs) {
    await setTimeout(20);
  }
}

const callRoute: Pick<RawMount, "method" | "pattern" | "policy"> = {
  method: "ANY",
  pattern: "/v1/call/{api}/{path=**}",
  policy: {
    access: Access.API_KEY,
    auditAction: "",
    rateClass: RateClass.V1,
    successStatus: 0,
  },
};

/** Count calls, and write down why they failed: never where an upstream is, or what it said. */
function watchCalls(
  { registry }: Metrics,
  { log, running }: { log: Logger; running: Running },
): GatewayWatch {
  const registers = [registry];
  const unpaid = new Counter({
    name: "callora_gateway_cut_unpaid_total",
    help: "Replies that were cut off because no credit paid for them",
    registers,
  });
  new Gauge({
    name: "callora_gateway_calls",
    help: "Calls that are running",
    registers,
    collect() {
      this.set(running.size);
    },
  });
  return {
    onFailure(error, call) {
      const reason = error instanceof Error ? error.name : typeof error;
      const code = error instanceof Error && "code" in error ? String(error.code) : "";
      log.info("Cannot finish a call of an API", { ...call, reason, code });
    },
    onUnpaid: () => unpaid.inc(),
  };
}
