import { once } from "node:events";
import http2 from "node:http2";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { test as base, expect } from "vitest";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import type { Mode } from "../gen/callora/keys/v1/key_pb.ts";
import { type CreateKeyRequestSchema, KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { mintSecret } from "../src/keys/secret.ts";
import { must, startTestApp } from "./support/app.ts";
import { createCaller } from "./support/caller.ts";
import { expectClean } from "./support/clean.ts";
import { asSuperuser } from "./support/superuser.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const test = base.extend<{
  $file: { app: App; headersOf: () => Promise<Record<string, string>> };
}>({
  app: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using app = await startTestApp({ TRUSTED_PROXIES: "127.0.0.1" });
      await use(app);
    },
    { scope: "file" },
  ],
  headersOf: [async ({ app }, use) => use(createCaller(app)), { scope: "file" }],
});

const createApi = "/callora.catalog.v1.CatalogService/CreateApi";
const valid = { name: "x", slug: "bad-input", upstreamUrl: "http://127.0.0.1:9" };

/** Bodies of CreateApi that are wrong, and what the answer must name. */
const bodies: Readonly<Record<string, { body: string | Uint8Array<ArrayBuffer>; names: string }>> =
  {
    "broken JSON": { body: '{"name":', names: "JSON" },
    "no JSON": { body: "name=x", names: "JSON" },
    "an array": { body: "[]", names: "" },
    "an unknown field": { body: JSON.stringify({ ...valid, colour: "red" }), names: "colour" },
    "a number for a text": { body: JSON.stringify({ ...valid, name: 5 }), names: "name" },
    "a text for a number": { body: JSON.stringify({ ...valid, callNanos: "many" }), names: "call" },
    "a fraction of a nano": { body: JSON.stringify({ ...valid, callNanos: 1.5 }), names: "call" },
    "an empty name": { body: JSON.stringify({ ...valid, name: "" }), names: "name" },
    "too long a name": { body: JSON.stringify({ ...valid, name: "x".repeat(101) }), names: "name" },
    "a slug in capitals": { body: JSON.stringify({ ...valid, slug: "Bad" }), names: "slug" },
    "a negative price": { body: JSON.stringify({ ...valid, callNanos: -1 }), names: "call_nanos" },
    "too high a price": {
      body: JSON.stringify({ ...valid, callNanos: "1000000000001" }),
      names: "call_nanos",
    },
    "a price beyond 64 bits": {
      body: JSON.stringify({ ...valid, callNanos: "9223372036854775808" }),
      names: "call",
    },
    "no address": {
      body: JSON.stringify({ ...valid, upstreamUrl: "nowhere" }),
      names: "upstream_url",
    },
    "another scheme": {
      body: JSON.stringify({ ...valid, upstreamUrl: "file:///etc/passwd" }),
      names: "upstream_url",
    },
    "a metadata address": {
      body: JSON.stringify({ ...valid, upstreamUrl: "http://0xa9fea9fe/" }),
      names: "upstream_url",
    },
    "credentials in the address": {
      body: JSON.stringify({ ...valid, upstreamUrl: "http://a:b@example.com/" }),
      names: "upstream_url",
    },
    "the character U+0000": { body: JSON.stringify({ ...valid, name: "a\0b" }), names: "name" },
    "half a surrogate pair": { body: JSON.stringify({ ...valid, name: "\ud800" }), names: "name" },
    "a request id that is none": {
      body: JSON.stringify({ ...valid, requestId: "1" }),
      names: "request_id",
    },
    "a deep unknown value": {
      body: `{"colour":${"[".repeat(50_000)}${"]".repeat(50_000)}}`,
      names: "",
    },
    "a deep known value": {
      body: `{"name":${'{"a":'.repeat(50_000)}1${"}".repeat(50_000)}}`,
      names: "",
    },
  };

const jsonProtocols = ["REST", "Connect"] as const;
const badBodies = jsonProtocols.flatMap((protocol) =>
  Object.entries(bodies).map(([what, row]) => ({ protocol, what, ...row })),
);

test.for(badBodies)(
  "$protocol refuses $what, says where, and writes nothing",
  async (row, { app, headersOf }) => {
    const headers = await headersOf();
    const before = await countRows(app);

    const response = await fetch(app.url + (row.protocol === "REST" ? "/api/apis" : createApi), {
      method: "POST",
      headers: { ...headers, "content-type": "application/json", "idempotency-key": "bad" },
      body: row.body,
    });

    const text = await response.text();
    expect([response.status, text]).toEqual([400, expect.stringContaining(row.names)]);
    expectClean(text);
    expect(await countRows(app)).toEqual(before);
  },
);

test("REST refuses text that is not UTF-8", async ({ app, headersOf }) => {
  const response = await fetch(`${app.url}/api/apis`, {
    method: "POST",
    headers: { ...(await headersOf()), "content-type": "application/json" },
    body: Uint8Array.from(
      Buffer.concat([Buffer.from('{"name":"'), Buffer.from([0xff]), Buffer.from('"}')]),
    ),
  });

  expect(response.status).toBe(400);
  expect(await response.text()).toContain("UTF-8");
});

test.for([
  { protocol: "REST", path: "/api/apis", status: 413 },
  { protocol: "Connect", path: createApi, status: 429 },
])(
  "$protocol turns 10 MB away at once, and goes on",
  async ({ path, status }, { app, headersOf }) => {
    const body = new Uint8Array(10 << 20).fill(0x20);
    const begun = performance.now();

    const response = await fetch(app.url + path, {
      method: "POST",
      headers: { ...(await headersOf()), "content-type": "application/json" },
      body,
    });

    expect(response.status).toBe(status);
    expectClean(await response.text());
    // It takes some 100 ms.
    expect(performance.now() - begun).toBeLessThan(10_000);
    expect((await fetch(`${app.url}/health`)).status).toBe(200);
  },
);

test.for(["grpc", "connect, binary"])(
  "%s turns 10 MB away, and goes on",
  async (name, { app, headersOf }) => {
    const client = createClient(CatalogService, transportFor(name, app.url));
    const headers = await headersOf();

    const outcome = client.createApi({ ...valid, name: "x".repeat(10 << 20) }, { headers });

    await expect(outcome).rejects.toMatchObject({ code: Code.ResourceExhausted });
    await expect(client.listApis({}, { headers })).resolves.toBeDefined();
  },
);

const wrongMessages: {
  what: string;
  request: MessageInitShape<typeof CreateKeyRequestSchema>;
  names: string;
}[] = [
  {
    what: "a time beyond the year 9999",
    request: { expireTime: { seconds: 1n << 60n } },
    names: "expire_time",
  },
  {
    what: "a time before its second",
    request: { expireTime: { seconds: 1n << 32n, nanos: -1 } },
    names: "expire_time",
  },
  { what: "a time that is over", request: { expireTime: { seconds: 1n } }, names: "expire_time" },
  { what: "an enum value that is none", request: { mode: 9 as Mode }, names: "mode" },
  { what: "the character U+0000", request: { displayName: "\0" }, names: "display_name" },
  { what: "too long a text", request: { displayName: "x".repeat(101) }, names: "display_name" },
  { what: "an id that is none", request: { apiId: "api_1'" }, names: "api_id" },
];

test.for(
  ["grpc", "connect, binary"].flatMap((protocol) =>
    wrongMessages.map((row) => ({ protocol, ...row })),
  ),
)(
  "$protocol refuses $what, and names it",
  async ({ protocol, names, request }, { app, headersOf }) => {
    const client = createClient(KeyService, transportFor(protocol, app.url));
    const apiId = "api_00000000000000000000000000";

    const error = await client
      .createKey({ apiId, ...request } as typeof request, { headers: await headersOf() })
      .catch(ConnectError.from);

    expect(error).toMatchObject({ code: Code.InvalidArgument });
    expect(error).toMatchObject({ rawMessage: expect.stringContaining(names) });
  },
);

test("an event with a time that is none is refused whole, and the others with it", async ({
  app,
  headersOf,
}) => {
  const developer = await app.person("DEVELOPER");
  const api = await app.api(developer);
  const client = createClient(MeteringService, transportFor("grpc", app.url));
  const headers = await headersOf();
  const event = { source: "bad", id: "1", accountId: developer.accountId, apiId: api.id };
  const before = await client.getWatermark({}, { headers });

  const events = [event, { ...event, id: "2", time: { seconds: 1n << 60n } }];
  const error = await client.recordUsage({ events }, { headers }).catch(ConnectError.from);

  expect(error).toMatchObject({ code: Code.InvalidArgument });
  expect(error).toMatchObject({ rawMessage: expect.stringContaining("events[1].time") });
  expect(await client.getWatermark({}, { headers })).toEqual(before);
});

test.for([
  { what: "half a message", bytes: [0x0a, 0x10, 0x41] },
  { what: "text that is not UTF-8", bytes: [0x12, 2, 0xff, 0xfe] },
  { what: "groups within groups", bytes: Array.from({ length: 100_000 }, () => 0x0b) },
  { what: "an endless number", bytes: Array.from({ length: 50 }, () => 0xff) },
])("gRPC refuses $what without a word about itself", async ({ bytes }, { app, headersOf }) => {
  const { status, message } = await callRaw(app, await headersOf(), Buffer.from(bytes));

  // gRPC's own rule for a message that cannot be parsed is INTERNAL.
  expect([Code.Internal, Code.InvalidArgument]).toContain(status);
  expectClean(message);
  expect((await fetch(`${app.url}/health`)).status).toBe(200);
});

test.for([
  "from=0000-01-01&to=0000-01-02",
  "from=9999-12-01&to=9999-12-31",
  "from=2026-02-30&to=2026-03-01",
  "from=2026-03-01&to=2026-02-01",
  "from=2020-01-01&to=2026-01-01",
  "from=%00",
])(
  "usage of the range %s is refused, and the field is named",
  async (query, { app, headersOf }) => {
    const response = await fetch(`${app.url}/api/usage?${query}`, { headers: await headersOf() });

    const text = await response.text();
    expect([response.status, text]).toEqual([400, expect.stringContaining('"field":"from"')]);
    expectClean(text);
  },
);

test("the gateway tells nobody why a key is not accepted", async ({ app }) => {
  const consumer = await app.person();
  const developer = await app.person("DEVELOPER");
  const apis = [await app.api(developer), await app.api(developer)];
  const [revoked, expired] = await Promise.all(apis.map(({ id }) => app.key(consumer, id)));
  await app.client(KeyService, consumer.token).revokeKeyForApi({ apiId: must(apis[0]).id });
  await asSuperuser(app, (client) =>
    client.query("update api_keys set expire_at = now() where api_id = $1", [must(apis[1]).id]),
  );
  const unknown = mintSecret("live").plain;
  const answers = new Set<string>();

  for (const key of [
    "garbage",
    "",
    `${unknown.slice(0, -1)}_`,
    unknown,
    must(revoked),
    must(expired),
  ]) {
    for (const api of [must(apis[0]).slug, must(apis[1]).slug, "no-such-api", "%00"]) {
      const response = await fetch(`${app.url}/v1/call/${api}/x`, {
        headers: { "x-api-key": key, "x-request-id": "the-same" },
      });
      answers.add(`${response.status} ${await response.text()}`);
    }
  }

  const answer = [...answers].join("\n");
  expect(answers.size, answer).toBe(1);
  expect(answer).toMatch(/^401 .*CREDENTIALS_REQUIRED/);
  expectClean(answer);
});

test.for(["%00", "%0a", "A", "x".repeat(1000), "api_1'", "a%2fb"])(
  "the gateway finds no API under %s",
  async (name, { app }) => {
    const consumer = await app.person();
    const api = await app.api(await app.person("DEVELOPER"));
    const secret = await app.key(consumer, api.id);

    const response = await fetch(`${app.url}/v1/call/${name}/x`, {
      headers: { "x-api-key": secret },
    });

    expect([response.status, await response.text()]).toEqual([
      404,
      expect.stringContaining("API_NOT_FOUND"),
    ]);
  },
);

test.for(["a b", "a\tb", "ü", "x".repeat(256), "'"])(
  "the Idempotency-Key %j is refused",
  async (key, { app, headersOf }) => {
    const response = await fetch(`${app.url}/api/apis`, {
      method: "POST",
      headers: {
        ...(await headersOf()),
        "content-type": "application/json",
        "idempotency-key": Buffer.from(key).toString("latin1"),
      },
      body: JSON.stringify(valid),
    });

    expect([response.status, await response.text()]).toEqual([
      400,
      expect.stringContaining("Idempotency-Key"),
    ]);
  },
);

function countRows(app: App): Promise<unknown> {
  return asSuperuser(app, async (client) => {
    const { rows } = await client.query(`
      select (select count(*) from apis) as apis, (select count(*) from api_directory) as ids,
        (select count(*) from api_slugs) as slugs, (select count(*) from api_upstreams) as upstreams,
        (select count(*) from api_prices) as prices, (select count(*) from idempotency_keys) as keys,
        (select count(*) from audit_logs) as records
    `);
    return rows;
  });
}

function transportFor(name: string, baseUrl: string) {
  return name === "grpc"
    ? // Node's client refuses replies while it holds 10 MB that it has not sent.
      createGrpcTransport({ baseUrl, nodeOptions: { maxSessionMemory: 100 } })
    : createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: true });
}

/** One gRPC call of CreateKey with the bytes for a message. */
async function callRaw(app: App, headers: Record<string, string>, bytes: Buffer) {
  const session = http2.connect(app.url);
  const stream = session.request({
    ...headers,
    ":method": "POST",
    ":path": "/callora.keys.v1.KeyService/CreateKey",
    "content-type": "application/grpc+proto",
    te: "trailers",
  });
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(bytes.length, 1);
  stream.end(Buffer.concat([frame, bytes]));
  let trailers: http2.IncomingHttpHeaders = {};
  stream.on("response", (head) => Object.assign(trailers, head));
  stream.on("trailers", (tail) => {
    trailers = { ...trailers, ...tail };
  });
  stream.resume();
  await once(stream, "close");
  session.close();
  return { status: Number(trailers["grpc-status"]), message: String(trailers["grpc-message"]) };
}
