import ipaddr from "ipaddr.js";
import type { Exchange } from "../rpc/call.ts";
import { type HttpRequest, type HttpResponse, headerOf } from "./http-message.ts";
import { createIds } from "./request-id.ts";

type Address = ReturnType<typeof ipaddr.process>;
type Range = ReturnType<typeof ipaddr.parseCIDR>;

/** What carries a call. */
export type Protocol = "grpc" | "grpc-web" | "connect" | "rest" | "http" | "websocket";

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
  const createId = createIds();
  return (request, response, protocol) => {
    const requestId = requestIdOf(request, createId);
    response.setHeader("x-request-id", requestId);
    response.setHeader("x-content-type-options", "nosniff");
    return new HttpExchange({ request, response, requestId, protocol, trusted });
  };
}

interface ExchangeInit {
  readonly request: HttpRequest;
  readonly response: HttpResponse;
  readonly requestId: string;
  readonly protocol: Protocol;
  readonly trusted: readonly Range[];
}

// A class, since each object literal with a getter gets a hidden class of its own, which keeps the
// request alive until the next full collection.
class HttpExchange implements Exchange {
  readonly requestId: string;
  readonly protocol: Protocol;
  readonly #init: ExchangeInit;
  #clientIp: string | undefined;

  constructor(init: ExchangeInit) {
    this.requestId = init.requestId;
    this.protocol = init.protocol;
    this.#init = init;
  }

  get clientIp(): string {
    this.#clientIp ??= clientIpOf(this.#init.request, this.#init.trusted);
    return this.#clientIp;
  }

  get method(): string {
    return this.#init.request.method ?? "";
  }

  setHeader(name: string, value: string): void {
    const { response } = this.#init;
    if (!response.headersSent && !response.destroyed) {
      response.setHeader(name, value);
    }
  }
}

const requestIdPattern = /^[\x21-\x7e]{1,128}$/;

function requestIdOf(request: HttpRequest, createId: () => string): string {
  const sent = headerOf(request, "x-request-id");
  return sent !== undefined && requestIdPattern.test(sent) ? sent : createId();
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
