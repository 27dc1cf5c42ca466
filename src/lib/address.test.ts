import { expect, test } from "vitest";
import { addressBlock, addressLiteral, createAddressPolicy, portOf } from "./address.ts";

const publicOnly = createAddressPolicy({ allowedRanges: [], ownPorts: () => [] });

/** Hosts as a developer could write them, and what lies there. */
const refusedHosts: Readonly<Record<string, string>> = {
  "127.0.0.1": "loopback",
  "127.1": "loopback, short",
  "127.255.255.254": "loopback, the far end",
  "0x7f.1": "loopback, hexadecimal part",
  "0x7f000001": "loopback, hexadecimal",
  "2130706433": "loopback, decimal",
  "017700000001": "loopback, octal",
  "0177.0.0.1": "loopback, octal part",
  "127.0.0.1.": "loopback, trailing dot",
  "①②⑦.⓪.⓪.①": "loopback, circled digits",
  "127。0。0。1": "loopback, ideographic dots",
  "%31%32%37.0.0.1": "loopback, percent-encoded",
  "0": "this host",
  "0.0.0.0": "this host",
  "10.1": "private, short",
  "172.16.0.1": "private",
  "172.31.255.255": "private",
  "192.168.1.1": "private",
  "169.254.169.254": "cloud metadata",
  "0xa9fea9fe": "cloud metadata, hexadecimal",
  "2852039166": "cloud metadata, decimal",
  "0251.0376.0251.0376": "cloud metadata, octal",
  "100.100.100.200": "carrier-grade NAT, metadata of one cloud",
  "192.0.0.192": "protocol assignments, metadata of one cloud",
  "192.0.2.1": "documentation",
  "192.88.99.1": "6to4 relay",
  "198.18.0.1": "benchmarking",
  "198.51.100.1": "documentation",
  "203.0.113.1": "documentation",
  "224.0.0.1": "multicast",
  "240.0.0.1": "reserved",
  "255.255.255.255": "broadcast",
  "[::]": "this host",
  "[::1]": "loopback",
  "[0:0:0:0:0:0:0:1]": "loopback, long",
  "[::ffff:127.0.0.1]": "loopback, IPv4-mapped",
  "[::ffff:a9fe:a9fe]": "cloud metadata, IPv4-mapped",
  "[::ffff:0:127.0.0.1]": "loopback, IPv4-translated",
  "[::127.0.0.1]": "loopback, IPv4-compatible",
  "[::a9fe:a9fe]": "cloud metadata, IPv4-compatible",
  "[64:ff9b::7f00:1]": "loopback through NAT64",
  "[64:ff9b:1::a9fe:a9fe]": "cloud metadata through local NAT64",
  "[2002:7f00:1::]": "loopback through 6to4",
  "[2001:0:7f00:1::]": "Teredo",
  "[fe80::1]": "link-local",
  "[fec0::1]": "site-local",
  "[fc00::1]": "unique local",
  "[fd00:ec2::254]": "cloud metadata",
  "[ff02::1]": "multicast",
  "[2001:db8::1]": "documentation",
  "[3fff::1]": "documentation",
  "[100::1]": "discard",
  "[5f00::1]": "segment routing",
  "[4000::1]": "not given out",
};

test.for(Object.entries(refusedHosts))("an upstream at %s (%s) is refused", ([host]) => {
  const literal = addressLiteral(new URL(`http://${host}/`));

  expect(literal, "must be known as an address").toBeDefined();
  expect(publicOnly.allows(literal ?? "", 80)).toBe(false);
});

test.for(["8.8.8.8", "134744072", "1.0.0.127", "[2001:4860:4860::8888]", "[2600::1]"])(
  "an upstream at the public address %s is allowed",
  (host) => {
    expect(publicOnly.allows(addressLiteral(new URL(`http://${host}/`)) ?? "", 443)).toBe(true);
  },
);

test.for(["", "localhost", "example.com", "127.0.0.1/8", "8.8.8.8:80", "::1%lo", "1.2.3.4 "])(
  'what is no address ("%s") is refused',
  (text) => {
    expect(publicOnly.allows(text, 80)).toBe(false);
  },
);

test("a range that is named may be reached, but never on a port of our own", () => {
  const policy = createAddressPolicy({
    allowedRanges: ["127.0.0.0/8", "::1/128"],
    ownPorts: () => [5432],
  });

  expect(policy.allows("127.0.0.1", 8080)).toBe(true);
  expect(policy.allows("::ffff:127.0.0.1", 8080)).toBe(true);
  expect(policy.allows("::1", 8080)).toBe(true);
  expect(policy.allows("127.0.0.1", 5432)).toBe(false);
  expect(policy.allows("::ffff:127.0.0.1", 5432)).toBe(false);
  expect(policy.allows("::1", 5432)).toBe(false);
  expect(policy.allows("10.0.0.1", 8080)).toBe(false);
});

test.for([
  { url: "http://a/", port: 80 },
  { url: "https://a/", port: 443 },
  { url: "https://a:80/", port: 80 },
])("the port of $url is $port", ({ url, port }) => {
  expect(portOf(new URL(url))).toBe(port);
});

test("a name is no address literal", () => {
  expect(addressLiteral(new URL("http://localhost/"))).toBeUndefined();
  expect(addressLiteral(new URL("http://127.0.0.1.example.com/"))).toBeUndefined();
});

test.for([
  { address: "192.0.2.7", block: "192.0.2.7" },
  { address: "::ffff:192.0.2.7", block: "192.0.2.7" },
  { address: "::ffff:c000:207", block: "192.0.2.7" },
  { address: "2001:db8:0:1:2:3:4:5", block: "2001:db8:0:1::/64" },
  { address: "2001:db8:0:1:ffff::1", block: "2001:db8:0:1::/64" },
  { address: "2001:db8::1", block: "2001:db8:0:0::/64" },
  { address: "2001:db8::2:3:4:5", block: "2001:db8:0:0::/64" },
  { address: "2001:db8:0:2::1", block: "2001:db8:0:2::/64" },
  { address: "::1", block: "0:0:0:0::/64" },
  { address: "", block: "" },
])("the block of $address is $block", ({ address, block }) => {
  expect(addressBlock(address)).toBe(block);
});
