import { lookup } from "node:dns";
import type { LookupFunction } from "node:net";
import { Agent, buildConnector, type Dispatcher } from "undici";
import { type AddressPolicy, addressLiteral } from "../lib/address.ts";

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
  const connector = buildConnector({ timeout: connectTimeoutMs, lookup: guardedLookup(addresses) });
  return new Agent({
    connections: connectionsPerOriginMax,
    pipelining: 1,
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    connect(options, callback) {
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
    },
  });
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
