import { once } from "node:events";
import http from "node:http";
import http2 from "node:http2";
import { expect, test } from "vitest";
import { startEdge } from "../../test/support/edge.ts";
import { createExchanges } from "./exchange.ts";

test.for([
  { trusted: [], forwarded: "1.1.1.1", client: "127.0.0.1" },
  { trusted: ["127.0.0.0/8"], forwarded: "1.1.1.1", client: "1.1.1.1" },
  {
    trusted: ["127.0.0.1", "10.0.0.0/8"],
    forwarded: "6.6.6.6, 2.2.2.2, 10.1.1.1",
    client: "2.2.2.2",
  },
  { trusted: ["127.0.0.1"], forwarded: "::ffff:3.3.3.3", client: "3.3.3.3" },
  { trusted: ["127.0.0.1"], forwarded: "6.6.6.6, nonsense", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: "6.6.6.6, ", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: "6.6.6.6,2.2.2.2:49152", client: "2.2.2.2" },
  { trusted: ["127.0.0.1"], forwarded: "2.2.2.2:", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: "2.2.2.2:1:2", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: "[2001:DB8::1]:443", client: "2001:db8::1" },
  { trusted: ["127.0.0.1"], forwarded: "[2001:db8::1]", client: "2001:db8::1" },
  { trusted: ["127.0.0.1"], forwarded: "fe80::1%eth0", client: "fe80::1" },
  { trusted: ["127.0.0.1"], forwarded: "%eth0", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: "6.6.6.6, ::ffff:7f00:1", client: "6.6.6.6" },
  { trusted: ["::ffff:127.0.0.0/104"], forwarded: "2.2.2.2", client: "2.2.2.2" },
  { trusted: ["127.0.0.1", "fd00::/8"], forwarded: "2.2.2.2, fd00::7", client: "2.2.2.2" },
  { trusted: ["127.0.0.1"], forwarded: "unknown", client: "127.0.0.1" },
  // Spellings that one reader takes for another address than the next, or for an address at all.
  { trusted: ["127.0.0.1"], forwarded: "6.6.6.6, 2130706433", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: "6.6.6.6, 127.1", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: "6.6.6.6, 0177.0.0.1", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: "6.6.6.6, 0x7f.0.0.1", client: "127.0.0.1" },
  { trusted: ["127.0.0.1"], forwarded: `6.6.6.6${", 127.0.0.1".repeat(40)}`, client: "127.0.0.1" },
])("from $trusted, $forwarded means $client", async ({ trusted, forwarded, client }) => {
  await using at = await startEdge({ trustedProxies: trusted });

  const reply = await fetch(`${at.url}/v1/books/b1`, { headers: { "x-forwarded-for": forwarded } });

  expect(reply.headers.get("x-client")).toBe(client);
});

test.for([
  { trusted: [], addresses: "1.1.1.1", schemes: "https", scheme: "http" },
  { trusted: ["10.0.0.0/8"], addresses: "", schemes: "https", scheme: "http" },
  { trusted: ["127.0.0.1"], addresses: "1.1.1.1", schemes: "https", scheme: "https" },
  { trusted: ["127.0.0.1"], addresses: "1.1.1.1", schemes: "HTTPS", scheme: "https" },
  { trusted: ["127.0.0.1"], addresses: "1.1.1.1", schemes: "http", scheme: "http" },
  { trusted: ["127.0.0.1"], addresses: "1.1.1.1", schemes: "gopher", scheme: "http" },
  { trusted: ["127.0.0.1"], addresses: "1.1.1.1", schemes: "", scheme: "http" },
  // A proxy that names no client, and one that hears of the client's scheme from the one before.
  { trusted: ["127.0.0.1"], addresses: "", schemes: "https", scheme: "https" },
  {
    trusted: ["127.0.0.1", "10.0.0.0/8"],
    addresses: "1.1.1.1, 10.1.1.1",
    schemes: "https",
    scheme: "https",
  },
  // One word of each proxy: that of the one that the client talked to.
  {
    trusted: ["127.0.0.1", "10.0.0.0/8"],
    addresses: "1.1.1.1, 10.1.1.1",
    schemes: "https, http",
    scheme: "https",
  },
  // What the client says itself stands before it.
  { trusted: ["127.0.0.1"], addresses: "6.6.6.6, 1.1.1.1", schemes: "https, http", scheme: "http" },
  {
    trusted: ["127.0.0.1", "10.0.0.0/8"],
    addresses: "6.6.6.6, 1.1.1.1, 10.1.1.1",
    schemes: "https, http, https",
    scheme: "http",
  },
])(
  "from $trusted, $schemes for $addresses means $scheme",
  async ({ trusted, addresses, schemes, scheme }) => {
    await using at = await startEdge({ trustedProxies: trusted });
    const headers = { "x-forwarded-for": addresses, "x-forwarded-proto": schemes };

    const reply = await fetch(`${at.url}/v1/books/b1`, { headers });

    expect(reply.headers.get("x-client-scheme")).toBe(scheme);
  },
);

test("a proxy that adds a header of its own, after the one that the client sent, is heard", async () => {
  await using at = await startEdge({ trustedProxies: ["127.0.0.1"] });
  const session = http2.connect(at.url);
  const lines = { "x-forwarded-for": ["127.0.0.1, 6.6.6.6", "2.2.2.2"] };

  const stream = session.request({ ":path": "/v1/books/b1", ...lines });
  const [overHttp2] = await once(stream, "response");
  const [overHttp1] = await once(http.get(`${at.url}/v1/books/b1`, { headers: lines }), "response");

  overHttp1.resume();
  session.destroy();
  expect(overHttp2["x-client"]).toBe("2.2.2.2");
  expect(overHttp1.headers["x-client"]).toBe("2.2.2.2");
});

test("a proxy that cannot be trusted stops the start", () => {
  expect(() => createExchanges({ trustedProxies: ["10.0.0.0/99"] })).toThrow(
    'Cannot trust proxy "10.0.0.0/99"',
  );
});
