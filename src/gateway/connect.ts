import { type LookupAddress, type LookupAllOptions, lookup as systemLookup } from "node:dns";
import type { LookupFunction, Socket } from "node:net";
import { buildConnector } from "undici";
import { type AddressPolicy, addressLiteral } from "../lib/address.ts";
import { createLruMap } from "../lib/lru-map.ts";
import { type Parts, partBytes } from "./parts.ts";

/** Thrown when an upstream is at an address that the gateway must not reach. */
export class AddressRefusedError extends Error {
  override name = "AddressRefusedError";
}

const connectTimeoutMs = 3_000;

/** Finds all addresses of a name. */
export type Resolve = (
  hostname: string,
  options: LookupAllOptions,
  callback: (error: Error | null, answers: readonly LookupAddress[]) => void,
) => void;

/**
 * Make what connects to upstreams. It checks every address at the moment of connecting: literals, every answer of a
 * look-up, and the address that the socket really has, with its port.
 */
export function guardedConnector(
  addresses: AddressPolicy,
  parts: Parts,
  resolve: Resolve = systemResolve,
): buildConnector.connector {
  const connector = buildConnector({
    timeout: connectTimeoutMs,
    allowH2: false,
    lookup: guardedLookup(addresses, resolve),
    ...readInto(parts),
  });
  return (options, callback) => {
    const port = Number(options.port || (options.protocol === "https:" ? 443 : 80));
    // undici takes the brackets off.
    const host = options.hostname.includes(":") ? `[${options.hostname}]` : options.hostname;
    const literal = addressLiteral(new URL(`${options.protocol}//${host}`));
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

/**
 * How a socket reads: into one piece of memory for all, of which each gets a copy. By itself Node takes 64 KB for each
 * read, and reads two of them ahead.
 */
function readInto(parts: Parts) {
  const buffer = Buffer.allocUnsafeSlow(partBytes);
  function callback(this: Socket, length: number): boolean {
    return this.push(parts.copy(buffer, length));
  }
  return { highWaterMark: partBytes, onread: { buffer, callback } };
}

function systemResolve(...[hostname, options, callback]: Parameters<Resolve>): void {
  systemLookup(hostname, options, callback);
}

/** A look-up that fails when one of a name's addresses is refused. The port is checked once connected. */
function guardedLookup(addresses: AddressPolicy, resolve: Resolve): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname, { ...options, all: true }, (error, answers) => {
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
        callback(null, [...answers]);
      } else {
        callback(null, first.address, first.family);
      }
    });
  };
}

function refused(host: string): AddressRefusedError {
  return new AddressRefusedError(`Cannot connect to "${host}": its address is not allowed`);
}

const namesMax = 1_000;

/** How long an answer is good. Look-ups share four threads with the file system. */
const answerMs = 5_000;

/** Look-ups of one name at the same time are one, and its answer is remembered for a moment. No failure is. */
export function rememberAnswers({
  resolve = systemResolve,
  nowMs,
}: {
  resolve?: Resolve;
  nowMs: () => number;
}): Resolve {
  const known = createLruMap<{ answers: readonly LookupAddress[]; untilMs: number }>(namesMax);
  const waiting = new Map<string, Parameters<Resolve>[2][]>();
  return (hostname, options, callback) => {
    const key = `${hostname} ${options.family ?? 0} ${options.hints ?? 0}`;
    const found = known.get(key);
    if (found !== undefined && nowMs() < found.untilMs) {
      // Never before the caller has gone on, as without the memory.
      process.nextTick(callback, null, found.answers);
      return;
    }
    const others = waiting.get(key);
    if (others !== undefined) {
      others.push(callback);
      return;
    }
    const callbacks = [callback];
    waiting.set(key, callbacks);
    resolve(hostname, options, (error, answers) => {
      waiting.delete(key);
      if (error === null) {
        known.set(key, { answers, untilMs: nowMs() + answerMs });
      }
      for (const one of callbacks) {
        one(error, answers);
      }
    });
  };
}
