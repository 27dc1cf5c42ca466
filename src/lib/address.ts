import ipaddr from "ipaddr.js";

/** Says which network addresses an outgoing call may reach. */
export interface AddressPolicy {
  /** Whether a connection to the address and port may be made. The address must be a literal. */
  allows(address: string, port: number): boolean;
}

/**
 * Allow public unicast addresses, and the private ones that are named, except on the ports that are ours.
 *
 * Everything else is refused: loopback, private, link-local and metadata ranges, in every spelling, and the IPv6
 * ranges that embed an IPv4 address, `::127.0.0.1` among them.
 */
export function createAddressPolicy({
  allowedRanges,
  ownPorts,
}: {
  /** CIDR ranges that may be reached although they are not public. */
  allowedRanges: readonly string[];
  /** Ports of this server and what it stands on. Never reached in an allowed range. */
  ownPorts: () => readonly number[];
}): AddressPolicy {
  const ranges = allowedRanges.map((range) => ipaddr.parseCIDR(range));
  return {
    allows(address, port) {
      if (!ipaddr.isValid(address)) {
        return false;
      }
      const parsed = ipaddr.process(address);
      const named = ranges.some(
        ([base, bits]) => base.kind() === parsed.kind() && parsed.match(base, bits),
      );
      return named ? !ownPorts().includes(port) : isPublic(parsed);
    },
  };
}

/** What IANA has given out to everybody: of IPv6 that is 2000::/3 alone. */
const globalUnicast = ipaddr.IPv6.parseCIDR("2000::/3");

/** Within Azure it answers what only the machine itself may know. */
const azureWireServer = "168.63.129.16";

function isPublic(address: ReturnType<typeof ipaddr.process>): boolean {
  if (address.toString() === azureWireServer) {
    return false;
  }
  const isGlobal = address.kind() === "ipv4" || address.match(globalUnicast);
  return isGlobal && address.range() === "unicast";
}

/** The host of a URL as an address literal, without brackets. Undefined when it is a name. */
export function addressLiteral(url: URL): string | undefined {
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  return ipaddr.isValid(host) ? host : undefined;
}

/** The port of a URL, or its scheme's. */
export function portOf(url: URL): number {
  return url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port);
}

/**
 * The network that one caller has to himself: an IPv4 address, or the /64 of an IPv6 one, since whoever has
 * one address of that has them all. What is no address stays as it is.
 */
export function addressBlock(address: string): string {
  if (!address.includes(":") || !ipaddr.isValid(address)) {
    return address;
  }
  const parsed = ipaddr.process(address);
  if (!("parts" in parsed)) {
    return parsed.toString();
  }
  return `${parsed.parts
    .slice(0, 4)
    .map((part) => part.toString(16))
    .join(":")}::/64`;
}
