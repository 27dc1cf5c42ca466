import { randomUUID } from "node:crypto";
import ipaddr from "ipaddr.js";
import type { Exchange } from "../rpc/call.ts";
import { type HttpRequest, type HttpResponse, headerOf } from "./http-message.ts";

type Address = ReturnType<typeof ipaddr.process>;
type Range = ReturnType<typeof ipaddr.parseCIDR>;

/** What carries a call. */
export type Protocol = "grpc" | "grpc-web" | "connect" | "rest" | "http";

/** Makes the exchange of each request. Holds no request state. */
export type OpenExchange = (
  request: HttpRequest,
  response: HttpResponse,
  protocol: Protocol,
) => Exchange;

/** Addresses that one X-Forwarded-For may name. Those to the left are not looked at. */
const hopsMax = 32;

/**
 * Prepare to make exchanges. `X-Forwarded-For` counts only from the given addresses and CIDR blocks.
 * Throws if one of them is neither.
 */
export function createExchanges({
  trustedProxies,
}: {
  trustedProxies: readonly string[];
}): OpenExchange {
  const trusted = trustedProxies.map(parseRange);
  return (request, response, protocol) => {
    const requestId = requestIdOf(request);
    response.setHeader("x-request-id", requestId);
    response.setHeader("x-content-type-options", "nosniff");
    let clientIp: string | undefined;
    return {
      requestId,
      get clientIp() {
        clientIp ??= clientIpOf(request, trusted);
        return clientIp;
      },
      protocol,
      setHeader(name, value) {
        if (!response.headersSent && !response.destroyed) {
          response.setHeader(name, value);
        }
      },
    };
  };
}

const requestIdPattern = /^[\x21-\x7e]{1,128}$/;

function requestIdOf(request: HttpRequest): string {
  const sent = headerOf(request, "x-request-id");
  return sent !== undefined && requestIdPattern.test(sent) ? sent : randomUUID();
}

function clientIpOf(request: HttpRequest, trusted: readonly Range[]): string {
  const remote = request.socket.remoteAddress;
  // A socket that is closed already has no address.
  let address = remote === undefined ? undefined : parseAddress(remote);
  if (address === undefined) {
    return "";
  }
  if (!isTrusted(address, trusted)) {
    return address.toString();
  }
  const hops = headerOf(request, "x-forwarded-for")?.split(",").slice(-hopsMax) ?? [];
  for (const hop of hops.reverse()) {
    const next = parseAddress(hop.trim());
    if (next === undefined) {
      break;
    }
    address = next;
    if (!isTrusted(address, trusted)) {
      break;
    }
  }
  return address.toString();
}

function parseAddress(text: string): Address | undefined {
  // Without a zone: it means nothing outside the machine.
  const bare = text.replace(/%.*$/, "");
  return ipaddr.isValid(bare) ? ipaddr.process(bare) : undefined;
}

function parseRange(text: string): Range {
  try {
    if (text.includes("/")) {
      return ipaddr.parseCIDR(text);
    }
    const address = ipaddr.process(text);
    return [address, address.kind() === "ipv4" ? 32 : 128];
  } catch {
    throw new Error(`Cannot trust proxy "${text}": it is no address and no CIDR block`);
  }
}

function isTrusted(address: Address, trusted: readonly Range[]): boolean {
  return trusted.some(
    ([range, bits]) => range.kind() === address.kind() && address.match(range, bits),
  );
}
