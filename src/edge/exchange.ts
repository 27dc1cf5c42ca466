import ipaddr from "ipaddr.js";
import { createLruMap } from "../lib/lru-map.ts";
import type { Exchange } from "../rpc/call.ts";
import type { Arrival } from "./arrival.ts";
import { createIds } from "./request-id.ts";

type Address = ReturnType<typeof ipaddr.process>;
type Range = ReturnType<typeof ipaddr.parseCIDR>;

/** What carries a call. */
export type Protocol = "grpc" | "grpc-web" | "connect" | "rest" | "http" | "websocket";

/** Makes the exchange of each request. Holds no request state. */
export type OpenExchange = (arrival: Arrival, protocol: Protocol) => Exchange;

/** Addresses that one X-Forwarded-For may name. Those to the left are not looked at. */
const hopsMax = 32;

/**
 * Prepare to make exchanges. `X-Forwarded-For` and `X-Forwarded-Proto` count only from the given addresses and CIDR
 * blocks. Throws if one of them is neither.
 */
export function createExchanges({
  trustedProxies,
}: {
  trustedProxies: readonly string[];
}): OpenExchange {
  const clients = createClients(trustedProxies.map(parseRange));
  const createId = createIds();
  return (arrival, protocol) => {
    const requestId = requestIdOf(arrival, createId);
    arrival.setHeader("x-request-id", requestId);
    arrival.setHeader("x-content-type-options", "nosniff");
    return new HttpExchange(arrival, requestId, protocol, clients);
  };
}

// A class, since each object literal with a getter gets a hidden class of its own, which keeps the
// request alive until the next full collection.
class HttpExchange implements Exchange {
  readonly requestId: string;
  readonly protocol: Protocol;
  readonly #arrival: Arrival;
  readonly #clients: Clients;
  #clientIp: string | undefined;

  constructor(arrival: Arrival, requestId: string, protocol: Protocol, clients: Clients) {
    this.#arrival = arrival;
    this.requestId = requestId;
    this.protocol = protocol;
    this.#clients = clients;
  }

  get clientIp(): string {
    this.#clientIp ??= this.#clients.ipOf(this.#arrival);
    return this.#clientIp;
  }

  get isSecure(): boolean {
    return this.#clients.isSecureOf(this.#arrival);
  }

  get method(): string {
    return this.#arrival.method;
  }

  setHeader(name: string, value: string): void {
    this.#arrival.setHeader(name, value);
  }
}

const requestIdPattern = /^[\x21-\x7e]{1,128}$/;

function requestIdOf(arrival: Arrival, createId: () => string): string {
  const sent = arrival.header("x-request-id");
  return sent !== undefined && requestIdPattern.test(sent) ? sent : createId();
}

/** Sockets' addresses whose usual spelling is remembered. */
const addressesMax = 10_000;

/** What is known of who sent a request. */
interface Clients {
  /** Empty: nobody knows. */
  ipOf(arrival: Arrival): string;
  isSecureOf(arrival: Arrival): boolean;
}

/** Without proxies all requests of a connection have one address: it is parsed once. */
function createClients(trusted: readonly Range[]): Clients {
  if (trusted.length > 0) {
    return {
      ipOf: (arrival) => findClient(arrival, trusted)?.address.toString() ?? "",
      isSecureOf: (arrival) => isSecureBehind(arrival, trusted),
    };
  }
  const known = createLruMap<string>(addressesMax);
  return {
    ipOf(arrival) {
      const remote = arrival.socket?.remoteAddress ?? "";
      let address = known.get(remote);
      if (address === undefined) {
        address = findClient(arrival, trusted)?.address.toString() ?? "";
        known.set(remote, address);
      }
      return address;
    },
    isSecureOf: (arrival) => arrival.isSecure,
  };
}

/** Where a request comes from, as far as trusted proxies say. */
interface Client {
  address: Address;
  /** How many hops before the socket's it was named. Null: the socket's own is no proxy that is trusted. */
  hops: number | null;
}

/** Undefined: the socket is closed already, and has no address. */
function findClient(arrival: Arrival, trusted: readonly Range[]): Client | undefined {
  const remote = arrival.socket?.remoteAddress;
  let address = remote === undefined ? undefined : parseAddress(remote);
  if (address === undefined) {
    return undefined;
  }
  if (!isTrusted(address, trusted)) {
    return { address, hops: null };
  }
  let hops = 0;
  for (const hop of hopsOf(arrival, "x-forwarded-for")) {
    const next = parseAddress(hop);
    if (next === undefined) {
      break;
    }
    address = next;
    hops += 1;
    if (!isTrusted(address, trusted)) {
      break;
    }
  }
  return { address, hops };
}

/** What proxies added to a header, the nearest first. */
function hopsOf(arrival: Arrival, name: string): string[] {
  const hops = arrival.header(name)?.split(",").slice(-hopsMax) ?? [];
  return hops.reverse().map((hop) => hop.trim());
}

/** By the word of the proxy that the client talked to, or of the first one that is left of them. */
function isSecureBehind(arrival: Arrival, trusted: readonly Range[]): boolean {
  const hops = findClient(arrival, trusted)?.hops ?? null;
  const schemes = hops === null ? [] : hopsOf(arrival, "x-forwarded-proto");
  const at = Math.min(Math.max((hops ?? 0) - 1, 0), schemes.length - 1);
  const scheme = schemes[at]?.toLowerCase();
  return scheme === "https" || (scheme !== "http" && arrival.isSecure);
}

// Some proxies add the port, and brackets around an IPv6 address.
const withPort = /^(?:\[([^\]]+)\]|([\d.]+))(?::\d{1,5})?$/;

/** An address in its usual spelling. Others, such as `127.1` or `0x7f.0.0.1`, mean what their reader thinks. */
function parseAddress(text: string): Address | undefined {
  const [, inBrackets, ipv4] = withPort.exec(text) ?? [];
  // Without a zone: it means nothing outside the machine.
  const bare = (inBrackets ?? ipv4 ?? text).replace(/%.*$/, "");
  const isUsual = bare.includes(":") || ipaddr.IPv4.isValidFourPartDecimal(bare);
  return isUsual && ipaddr.isValid(bare) ? ipaddr.process(bare) : undefined;
}

function parseRange(text: string): Range {
  try {
    if (text.includes("/")) {
      return unmapped(ipaddr.parseCIDR(text));
    }
    const address = ipaddr.process(text);
    return [address, address.kind() === "ipv4" ? 32 : 128];
  } catch {
    throw new Error(`Cannot trust proxy "${text}": it is no address and no CIDR block`);
  }
}

/** An IPv4 range that is written as an IPv6 one: addresses are compared as IPv4. */
function unmapped([address, bits]: Range): Range {
  const isMapped = "toIPv4Address" in address && address.isIPv4MappedAddress() && bits >= 96;
  return isMapped ? [address.toIPv4Address(), bits - 96] : [address, bits];
}

function isTrusted(address: Address, trusted: readonly Range[]): boolean {
  return trusted.some(
    ([range, bits]) => range.kind() === address.kind() && address.match(range, bits),
  );
}
