import { lookup } from "node:dns";
import type { LookupFunction } from "node:net";
import { Agent, buildConnector, type Dispatcher, Pool } from "undici";
import { type AddressPolicy, addressLiteral } from "../lib/address.ts";
import { createBreaker, type Health } from "./breaker.ts";

/** Thrown when an upstream is at an address that the gateway must not reach. */
export class AddressRefusedError extends Error {
  override name = "AddressRefusedError";
}

const connectTimeoutMs = 3_000;
const connectionsPerOriginMax = 64;

/**
 * Make the client for upstreams. It follows no redirect, and checks every address at the moment of connecting:
 * literals, every answer of a look-up, and the address that the socket really has, with its port.
 */
export function createUpstreamClient({
  addresses,
  timeoutMs,
}: {
  addresses: AddressPolicy;
  timeoutMs: number;
}): Dispatcher {
  return new Agent({
    connections: connectionsPerOriginMax,
    pipelining: 1,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    connect: guardedConnector(addresses),
  });
}

/** One server that calls can go to. */
export interface Target {
  readonly pool: Dispatcher;
  /** The path that a call's is appended to, without a slash at its end. */
  readonly basePath: string;
  /** For the host header. */
  readonly host: string;
  readonly health: Health;
}

/** The servers of an API. */
export interface UpstreamSet {
  /** The next one to try. Null: none can be called, or all were tried. */
  pick(tried: readonly Target[]): Target | null;
  /** When one may be called again. */
  readonly retryAfterMs: number;
}

/** What the upstreams of a process are doing. */
export interface UpstreamStats {
  pools: number;
  open: number;
}

/** The connections of a process to upstreams. */
export interface Upstreams {
  setOf(list: readonly { url: string; weight: number }[]): UpstreamSet;
  stats(): UpstreamStats;
  close(): Promise<void>;
}

/** Make them. Addresses are checked as by createUpstreamClient(). */
export function createUpstreams({
  addresses,
  connectionsMax,
  timeoutMs,
  nowMs,
}: {
  addresses: AddressPolicy;
  /** To one origin. */
  connectionsMax: number;
  timeoutMs: number;
  nowMs: () => number;
}): Upstreams {
  const pools = new Map<string, Pool>();
  const poolOf = (origin: string) => {
    const pool =
      pools.get(origin) ??
      new Pool(origin, {
        connections: connectionsMax,
        pipelining: 1,
        headersTimeout: timeoutMs,
        bodyTimeout: timeoutMs,
        maxHeaderSize: 16_384,
        connect: guardedConnector(addresses),
      });
    pools.set(origin, pool);
    return pool;
  };
  return {
    setOf(list) {
      const targets = list.map(({ url }): Target => {
        const { origin, pathname, host } = new URL(url);
        const basePath = pathname.replace(/\/+$/, "");
        return { pool: poolOf(origin), basePath, host, health: createBreaker({ nowMs }) };
      });
      return {
        pick: (tried) => targets.find((target) => !tried.includes(target)) ?? null,
        retryAfterMs: 0,
      };
    },
    stats: () => ({ pools: pools.size, open: 0 }),
    async close() {
      await Promise.all([...pools.values()].map((pool) => pool.destroy()));
    },
  };
}

function guardedConnector(addresses: AddressPolicy): buildConnector.connector {
  const connector = buildConnector({ timeout: connectTimeoutMs, lookup: guardedLookup(addresses) });
  return (options, callback) => {
    const port = Number(options.port || (options.protocol === "https:" ? 443 : 80));
    const literal = addressLiteral(new URL(`${options.protocol}//${options.hostname}`));
    if (literal !== undefined && !addresses.allows(literal, port)) {
      callback(refused(options.hostname), null);
      return;
    }
    connector(options, (error, socket) => {
      if (error !== null || socket === null) {
        callback(error ?? new Error("Cannot connect: no socket"), null);
        return;
      }
      if (!addresses.allows(socket.remoteAddress ?? "", port)) {
        socket.destroy();
        callback(refused(options.hostname), null);
        return;
      }
      callback(null, socket);
    });
  };
}

/** A look-up that fails when one of a name's addresses is refused. The port is checked once connected. */
function guardedLookup(addresses: AddressPolicy): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, answers) => {
      if (error !== null) {
        callback(error, "", 0);
        return;
      }
      const first = answers[0];
      if (first === undefined || answers.some(({ address }) => !addresses.allows(address, 0))) {
        callback(refused(hostname), "", 0);
        return;
      }
      if (options.all) {
        callback(null, answers);
      } else {
        callback(null, first.address, first.family);
      }
    });
  };
}

function refused(host: string): AddressRefusedError {
  return new AddressRefusedError(`Cannot connect to "${host}": its address is not allowed`);
}
