import { once } from "node:events";
import http2 from "node:http2";
import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { test as base, expect } from "vitest";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { mintSecret } from "../src/keys/secret.ts";
import { encodePageToken } from "../src/lib/page-token.ts";
import { methodName } from "../src/rpc/policy.ts";
import { must, startTestApp } from "./support/app.ts";
import { createCaller } from "./support/caller.ts";
import { contractMethods } from "./support/contract.ts";
import { asSuperuser } from "./support/superuser.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const test = base.extend<{
  $file: { app: App; caller: () => Promise<Record<string, string>> };
}>({
  app: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using app = await startTestApp({ TRUSTED_PROXIES: "127.0.0.1" });
      await use(app);
    },
    { scope: "file" },
  ],
  caller: [async ({ app }, use) => use(createCaller(app)), { scope: "file" }],
});

const methods = await contractMethods();
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
  async (row, { app, caller }) => {
    const headers = await caller();
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

test("REST refuses text that is not UTF-8", async ({ app, caller }) => {
  const response = await fetch(`${app.url}/api/apis`, {
    method: "POST",
    headers: { ...(await caller()), "content-type": "application/json" },
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
])("$protocol turns 10 MB away at once, and goes on", async ({ path, status }, { app, caller }) => {
  const body = new Uint8Array(10 << 20).fill(0x20);
  const begun = performance.now();

  const response = await fetch(app.url + path, {
    method: "POST",
    headers: { ...(await caller()), "content-type": "application/json" },
    body,
  });

  expect(response.status).toBe(status);
  expectClean(await response.text());
  expect(performance.now() - begun).toBeLessThan(3_000);
  expect((await fetch(`${app.url}/health`)).status).toBe(200);
});

test.for(["grpc", "connect, binary"])(
  "%s turns 10 MB away, and goes on",
  async (name, { app, caller }) => {
    const client = createClient(CatalogService, transportFor(name, app.url));
    const headers = await caller();

    const outcome = client.createApi({ ...valid, name: "x".repeat(10 << 20) }, { headers });

    await expect(outcome).rejects.toMatchObject({ code: Code.ResourceExhausted });
    await expect(client.listApis({}, { headers })).resolves.toBeDefined();
  },
);

const wrongMessages = [
  { what: "a time beyond the year 9999", expireTime: { seconds: 1n << 60n }, names: "expire_time" },
  {
    what: "a time before its second",
    expireTime: { seconds: 1n << 32n, nanos: -1 },
    names: "expire_time",
  },
  { what: "a time that is over", expireTime: { seconds: 1n }, names: "expire_time" },
  { what: "an enum value that is none", mode: 9, names: "mode" },
  { what: "the character U+0000", displayName: "\0", names: "display_name" },
  { what: "too long a text", displayName: "x".repeat(101), names: "display_name" },
  { what: "an id that is none", apiId: "api_1'", names: "api_id" },
  { what: "no id", apiId: "", names: "api_id" },
];

test.for(
  ["grpc", "connect, binary"].flatMap((protocol) =>
    wrongMessages.map((row) => ({ protocol, ...row })),
  ),
)(
  "$protocol refuses $what, and names it",
  async ({ protocol, what: _, names, ...row }, { app, caller }) => {
    const client = createClient(KeyService, transportFor(protocol, app.url));
    const apiId = "api_00000000000000000000000000";

    const error = await client
      .createKey({ apiId, ...row }, { headers: await caller() })
      .catch(ConnectError.from);

    expect(error).toMatchObject({ code: Code.InvalidArgument });
    expect(error).toMatchObject({ rawMessage: expect.stringContaining(names) });
  },
);

test("an event with a time that is none is refused whole, and the others with it", async ({
  app,
  caller,
}) => {
  const developer = await app.person("DEVELOPER");
  const api = await app.api(developer);
  const client = createClient(MeteringService, transportFor("grpc", app.url));
  const headers = await caller();
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
])("gRPC refuses $what without a word about itself", async ({ bytes }, { app, caller }) => {
  const { status, message } = await callRaw(app, await caller(), Buffer.from(bytes));

  // gRPC's own rule for a message that cannot be parsed is INTERNAL.
  expect([Code.Internal, Code.InvalidArgument]).toContain(status);
  expectClean(message);
  expect((await fetch(`${app.url}/health`)).status).toBe(200);
});

const lists = methods.filter(({ input }) => input.fields.some(({ name }) => name === "page_token"));
const token = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");

test.for(
  lists.flatMap((method) =>
    [
      "zzz",
      "=",
      token(["v1", "\0"]),
      token(["v2", "x"]),
      token([]),
      token(["v1", 1]),
      "x".repeat(513),
    ].map((pageToken) => ({ method, name: method.name, pageToken })),
  ),
)("$name refuses the page token $pageToken", async ({ method, pageToken }, { app, caller }) => {
  const { code, text } = await callJson(app, method, {
    headers: await caller(),
    body: { pageToken },
  });

  expect([code, text]).toEqual(["invalid_argument", expect.stringContaining("page_token")]);
});

test.for(lists.map((method) => ({ method, name: method.name })))(
  "$name refuses pages of 251",
  async ({ method }, { app, caller }) => {
    const { code, text } = await callJson(app, method, {
      headers: await caller(),
      body: { pageSize: 251 },
    });

    expect([code, text]).toEqual(["invalid_argument", expect.stringContaining("page_size")]);
  },
);

test("a page token of another list is refused, or finds nothing", async ({ app, caller }) => {
  const audit = must(lists.find(({ name }) => name === "AdminListAuditLogs"));
  const pageToken = encodePageToken("key_00000000000000000000000000");

  const { code } = await callJson(app, audit, { headers: await caller(), body: { pageToken } });

  expect(code).toBe("invalid_argument");
});

const withIds = methods.flatMap((method) =>
  method.input.fields
    .filter(({ name }) => name.endsWith("_id"))
    .map((field) => ({ method, name: method.name, field: field.name })),
);

test.for(withIds)(
  "$name refuses a $field that is none, and names it",
  async (row, { app, caller }) => {
    for (const id of ["x", "'; drop table users; --", "api_00000000000000000000000000\n", "../x"]) {
      const body = { [row.field]: id };
      const { code, text } = await callJson(app, row.method, { headers: await caller(), body });

      expect([code, text]).toEqual(["invalid_argument", expect.stringContaining(row.field)]);
    }
  },
);

const hostile = [
  "\0",
  "x".repeat(100_000),
  "'; drop table users; --",
  "%s%n",
  "🐎",
  -1,
  1e300,
  0.5,
  null,
  [],
  {},
  true,
];
const hostileNumbers = ["9223372036854775808", "-9223372036854775809", "NaN", "1e400", 4294967296];

test.for(methods.map((method) => ({ method, name: methodName(method) })))(
  "$name answers hostile values without failing",
  async ({ method }, { app, caller }) => {
    for (const body of hostileBodies(method.input)) {
      const { status, code, text } = await callJson(app, method, { headers: await caller(), body });

      expect([body, status, code]).toEqual([
        body,
        expect.not.oneOf([500]),
        expect.not.oneOf(["internal", "unknown"]),
      ]);
      expectClean(text);
    }
  },
);

test.for([
  "from=0000-01-01&to=0000-01-02",
  "from=9999-12-01&to=9999-12-31",
  "from=2026-02-30&to=2026-03-01",
  "from=2026-03-01&to=2026-02-01",
  "from=2020-01-01&to=2026-01-01",
  "from=%00",
])("usage of the range %s is refused, and the field is named", async (query, { app, caller }) => {
  const response = await fetch(`${app.url}/api/usage?${query}`, { headers: await caller() });

  const text = await response.text();
  expect([response.status, text]).toEqual([400, expect.stringContaining('"field":"from"')]);
  expectClean(text);
});

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
    for (const api of [must(apis[0]).slug, must(apis[1]).slug, "no-such-api", "%00", "%2e%2e"]) {
      const response = await fetch(`${app.url}/v1/call/${api}/x`, {
        headers: { "x-api-key": key },
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
  async (key, { app, caller }) => {
    const response = await fetch(`${app.url}/api/apis`, {
      method: "POST",
      headers: {
        ...(await caller()),
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

/** No stack, no SQL, no file, nothing of what the server stands on. */
function expectClean(text: string): void {
  expect(text).not.toMatch(
    /\bat .*[:(]\d|\.ts\b|node_modules|\bnode:|slonik|postgres|\bpg_|select .* from|insert into|callora_(?:app|worker)|violates|syntax error/i,
  );
}

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
    ? createGrpcTransport({ baseUrl })
    : createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: true });
}

async function callJson(
  app: App,
  method: (typeof methods)[number],
  { headers, body }: { headers: Record<string, string>; body: unknown },
): Promise<{ status: number; code: string; text: string }> {
  const response = await fetch(`${app.url}/${methodName(method)}`, {
    method: "POST",
    headers: { ...headers, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  const code = /^\{"code":"(\w+)"/.exec(text)?.[1] ?? "ok";
  return { status: response.status, code, text };
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

/** One body for each field and hostile value, lists and messages within them included. */
function* hostileBodies(desc: DescMessage): Generator<Record<string, unknown>> {
  for (const field of desc.fields) {
    const values = isNumber(field) ? [...hostile, ...hostileNumbers] : hostile;
    for (const value of values) {
      yield { [field.name]: value };
      if (field.fieldKind === "list") {
        yield { [field.name]: [value] };
      }
    }
    if (field.fieldKind === "list" && field.message !== undefined) {
      for (const inner of hostileBodies(field.message)) {
        yield { [field.name]: [inner] };
      }
    }
  }
}

function isNumber(field: DescField): boolean {
  return (
    field.fieldKind === "scalar" &&
    field.scalar !== ScalarType.STRING &&
    field.scalar !== ScalarType.BOOL
  );
}
