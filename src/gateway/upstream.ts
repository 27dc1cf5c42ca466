import assert from "node:assert";
import { type Dispatcher, Pool } from "undici";
import type { AddressPolicy } from "../lib/address.ts";
import { createLruMap } from "../lib/lru-map.ts";
import { createBreaker, type Health } from "./breaker.ts";
import { guardedConnector, type Resolve, rememberAnswers } from "./connect.ts";
import { Parts } from "./parts.ts";
import { weightedSet } from "./weighted.ts";

export { AddressRefusedError } from "./connect.ts";

/** One server that calls can go to. */
export interface Target {
  /** To be used at once: another may be here later. */
  readonly pool: Dispatcher;
  /** The path that a call's is appended to, without a slash at its end. */
  readonly basePath: string;
  /** For the host header. */
  readonly host: string;
  readonly origin: string;
  readonly health: Health;
  /** Calls that wait for a connection, also those whose consumers have left: their bodies are in memory until then. */
  waiting: number;
  /** How many may. */
  readonly waitingMax: number;
}

/** The servers of an API. */
export interface UpstreamSet {
  /** The next one to try, for a call that then goes there. Null: none can be called, or all were tried. */
  pick(tried: readonly Target[]): Target | null;
  /** Whether pick() would give one. For a call that may stay where it is. */
  hasOther(tried: readonly Target[]): boolean;
  /** When one may be called again. Zero: one may be now. */
  readonly retryAfterMs: number;
}

/** A server, and its share of the calls. */
export interface UpstreamAddress {
  readonly url: string;
  /** Zero: only when no other can be called. */
  readonly weight: number;
}

/** What the upstreams of a process are doing. */
export interface UpstreamStats {
  /** Pools of connections that are kept. */
  pools: number;
  /** Upstreams that are not called now, because they failed. */
  open: number;
}

/** The connections of a process to upstreams. */
export interface Upstreams {
  /**
   * The servers of one owner. Another owner's servers at the same address have connections and health of their own:
   * what one does there stops nobody else.
   */
  setOf(list: readonly UpstreamAddress[], owner: string): UpstreamSet;
  stats(): UpstreamStats;
  /** What replies are read into. */
  readonly parts: Parts;
  /** Break off what is running. */
  close(): Promise<void>;
}

/** What upstreams are made from. */
export interface UpstreamDeps {
  addresses: AddressPolicy;
  /** To one origin, for one owner. */
  connectionsMax: number;
  timeoutMs: number;
  nowMs: () => number;
  resolve?: Resolve;
}

const poolsMax = 1_000;
const healthsMax = 10_000;

/** Make them. They follow no redirect, and check every address at the moment of connecting. */
export function createUpstreams(deps: UpstreamDeps): Upstreams {
  const { nowMs } = deps;
  const parts = new Parts();
  const pools = createPools(deps, parts);
  const healths = createLruMap<Health>(healthsMax);

  function healthOf(key: string): Health {
    const health = healths.get(key) ?? createBreaker({ nowMs });
    healths.set(key, health);
    return health;
  }

  return {
    setOf: (list, owner) =>
      weightedSet(
        list.map(({ url, weight }) => {
          const target = new PooledTarget(url, {
            owner,
            pools,
            health: healthOf(`${owner} ${url}`),
            waitingMax: 2 * deps.connectionsMax,
          });
          return { target, weight };
        }),
      ),
    stats: () => ({
      pools: pools.size,
      open: [...healths.keys()].filter((key) => healths.get(key)?.isOpen).length,
    }),
    parts,
    close: () => pools.close(),
  };
}

interface PooledTargetParts {
  owner: string;
  pools: Pools;
  health: Health;
  waitingMax: number;
}

/** A target whose pool is opened when it is called, and again when it was given up in between. */
class PooledTarget implements Target {
  readonly basePath: string;
  readonly host: string;
  readonly origin: string;
  readonly health: Health;
  waiting = 0;
  readonly waitingMax: number;
  readonly #pools: Pools;

  readonly #owner: string;
  #slot: Slot | undefined;

  constructor(url: string, { owner, pools, health, waitingMax }: PooledTargetParts) {
    const { origin, pathname, host } = new URL(url);
    this.basePath = pathname.replace(/\/+$/, "");
    this.host = host;
    this.health = health;
    this.waitingMax = waitingMax;
    this.#pools = pools;
    this.origin = origin;
    this.#owner = owner;
  }

  get pool(): Dispatcher {
    let slot = this.#slot;
    if (slot === undefined || slot.isGivenUp) {
      slot = this.#pools.open(this.#owner, this.origin);
      this.#slot = slot;
    }
    this.#pools.touch(slot);
    return slot.pool;
  }
}

interface Slot {
  readonly pool: Pool;
  usedAtMs: number;
  isGivenUp: boolean;
}

type Pools = ReturnType<typeof createPools>;

/** Below the five seconds after which common servers close what is idle, and after which a call would meet a reset. */
const keepAliveMs = 4_000;

/** Pools by owner and origin. Past a limit, the one that was not used for longest is given up: its calls end. */
function createPools(deps: UpstreamDeps, parts: Parts) {
  const { addresses, connectionsMax, timeoutMs, nowMs, resolve } = deps;
  const slots = new Map<string, Slot>();
  const ending = new Set<Pool>();
  const answers = rememberAnswers({ nowMs, ...(resolve === undefined ? {} : { resolve }) });
  const connect = guardedConnector(addresses, parts, answers);
  let isClosed = false;

  function giveUpOldest() {
    let oldest: [string, Slot] | undefined;
    for (const entry of slots) {
      if (oldest === undefined || entry[1].usedAtMs < oldest[1].usedAtMs) {
        oldest = entry;
      }
    }
    if (oldest === undefined) {
      return;
    }
    const [key, slot] = oldest;
    slots.delete(key);
    slot.isGivenUp = true;
    ending.add(slot.pool);
    const forget = () => ending.delete(slot.pool);
    slot.pool.close().then(forget, forget);
  }

  return {
    get size() {
      return slots.size;
    },
    open(owner: string, origin: string): Slot {
      assert(!isClosed, "Cannot call an upstream: the gateway has stopped");
      const key = `${owner} ${origin}`;
      const found = slots.get(key);
      if (found !== undefined) {
        return found;
      }
      if (slots.size >= poolsMax) {
        giveUpOldest();
      }
      const pool = new Pool(origin, {
        connections: connectionsMax,
        pipelining: 1,
        allowH2: false,
        headersTimeout: timeoutMs,
        bodyTimeout: timeoutMs,
        keepAliveTimeout: keepAliveMs,
        // Whatever an upstream says.
        keepAliveMaxTimeout: keepAliveMs,
        maxHeaderSize: 16_384,
        connect,
      });
      const slot = { pool, usedAtMs: nowMs(), isGivenUp: false };
      slots.set(key, slot);
      return slot;
    },
    touch(slot: Slot) {
      slot.usedAtMs = nowMs();
    },
    async close() {
      isClosed = true;
      const all = [...[...slots.values()].map(({ pool }) => pool), ...ending];
      slots.clear();
      await Promise.all(all.map((pool) => pool.destroy()));
    },
  };
}
