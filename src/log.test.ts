import { context, ROOT_CONTEXT, trace } from "@opentelemetry/api";
import { Keypair } from "@stellar/stellar-sdk";
import { describe, expect, test } from "vitest";
import { cpuMsOf } from "../test/support/cpu.ts";
import { createLogger, type LogFields } from "./log.ts";
import { maskSecrets } from "./log-mask.ts";

const secretOf = {
  "live key": `ck_live_${"0a1b2c3d".repeat(6)}`,
  "test key": `ck_test_${"9f8e7d6c".repeat(6)}`,
  "API token": `ora_${"aZ0_-bY".repeat(6)}x`,
  "router key": `ef_${"aBcDeFgH".repeat(8)}`,
  "Stellar seed": Keypair.random().secret(),
  JWT: "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c3JfMSJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ",
  "encryption key": Buffer.alloc(32, "k7").toString("base64"),
  "provider key": "sk_live_51H8xYzAbCdEfGhIjKl",
} as const;
const secrets = Object.entries(secretOf);
const password = "hunter2-canary";

/** Log one line and read it back. */
function lineOf(message: string, fields?: Record<string, unknown>): string {
  const lines: string[] = [];
  const logger = createLogger({ level: "debug", stream: { write: (line) => lines.push(line) } });
  logger.error(message, fields as LogFields);
  expect(lines).toHaveLength(1);
  return lines[0] ?? "";
}

describe.for(secrets)("a %s", ([, secret]) => {
  const places: Record<string, () => string> = {
    message: () => lineOf(`Cannot use ${secret}`),
    "message without a gap": () => lineOf(`x${secret}`),
    "message of JSON": () => lineOf(JSON.stringify({ text: `\n${secret}` })),
    "allowed field": () => lineOf("m", { reason: `got ${secret}.` }),
    "unknown field": () => lineOf("m", { anything: secret }),
    "nested object": () => lineOf("m", { reason: { deep: { deeper: [secret] } } }),
    array: () => lineOf("m", { route: ["a", secret] }),
    "name of a field": () => lineOf("m", { [secret]: 1 }),
    "error message and stack": () => lineOf("m", { err: new Error(`bad ${secret}`) }),
    "error code": () => lineOf("m", { err: Object.assign(new Error("m"), { code: secret }) }),
    "error property": () =>
      lineOf("m", { err: Object.assign(new Error("m"), { config: { headers: { a: secret } } }) }),
    "error causes": () =>
      lineOf("m", { err: new Error("m", { cause: new Error("n", { cause: secret }) }) }),
    "aggregate error": () => lineOf("m", { err: new AggregateError([new TypeError(secret)], "m") }),
    "thrown string": () => lineOf("m", { err: secret }),
    "thrown object": () => lineOf("m", { err: { secret } }),
    "URL path": () => lineOf("m", { url: `https://api.example/hooks/${secret}` }),
    "URL query": () => lineOf(`GET /v1/x?a=1&anything=${secret}&b=2`),
    "Authorization header": () => lineOf(`headers: Authorization: Bearer ${secret}`),
  };

  test.for(Object.keys(places))("does not pass in a log line's %s", (place) => {
    const line = places[place]?.() ?? secret;

    expect(line).not.toContain(secret);
    expect(line).not.toContain(secret.slice(-12));
    expect(JSON.parse(line)).toMatchObject({ level: "error", pid: process.pid });
  });
});

test.for([
  `connect postgres://callora:${password}@db/callora failed`,
  `connect postgres://callora:p/${password}@@db:5432/callora failed`,
  `{"url":"redis:\\/\\/:${password}@cache"}`,
  `https://${password}@api.example/`,
  `GET https://api.example/?signature=${password}`,
  `GET /callback?state=1&code=${password}#top`,
  `Authorization: ${password}`,
  `AUTHORIZATION=Basic ${password} ${password}`,
  `{"authorization":"Digest ${password}, nonce=${password}"}`,
  `proxy-authorization: ${password}`,
  `Cookie: a=${password}; b=${password}`,
  `set-cookie: callora.session=${password}; HttpOnly`,
  `bearer ${password}`,
  `header%20Bearer%20${password}`,
  `password=${password}`,
  `{"newPassword": "${password}"}`,
  `{ client_secret: '${password}' }`,
  `X-Api-Key: ${password}`,
  `METRICS_API_KEY=${password}`,
  `better-auth.session_token=${password}`,
  `-----BEGIN PRIVATE KEY-----\n${password}\n-----END PRIVATE KEY-----`,
])("maskSecrets leaves nothing secret of %s", (text) => {
  expect(maskSecrets(text)).not.toContain("hunter2");
});

test.for([
  `Cannot find key "key_0123456789abcdefghijklmnop"`,
  "GET /v1/accounts/{account_id}/events 200 in 12.5 ms",
  "connect ECONNREFUSED 127.0.0.1:5432",
  "listening on http://localhost:3000",
  `account ${Keypair.fromRawEd25519Seed(Buffer.alloc(32, 7)).publicKey()}`,
  "trace 4bf92f3577b34da6a3ce929d0e0e4736",
])("maskSecrets leaves %j as it is", (text) => {
  expect(maskSecrets(text)).toBe(text);
});

test("no part of a secret is left where a text is cut", () => {
  for (let length = 4_000; length < 4_096; length += 5) {
    const line = lineOf("m", { reason: `${"x".repeat(length)} ${secretOf["router key"]} end` });

    expect(line).not.toMatch(/[aA]BcDe/i);
  }
  expect(maskSecrets("ck_live_".padEnd(20_000, "a"))).toBe(" [cut]");
});

test.for([
  "://",
  "eyJ",
  "?a=",
  "secret",
  "a.",
  "S",
  "Bearer ",
  "AKIA",
  "-----BEGIN PRIVATE KEY-----",
])("a hostile text of %j is masked in bounded time", (piece) => {
  const text = piece.repeat(16_384 / piece.length);

  expect(cpuMsOf(() => maskSecrets(text))).toBeLessThan(1_000);
});

test("a line has its fields, its child's fields, its message, and how many fields were dropped", () => {
  const lines: string[] = [];
  const logger = createLogger({ level: "info", stream: { write: (line) => lines.push(line) } });
  const fields = { amountNanos: 9_007_199_254_740_993n, event: new Date(0), extra: 1, other: {} };

  logger.child({ requestId: "req_1" }).child({ method: "GET" }).info("answered %s", fields);
  logger.debug("not at this level");

  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0] ?? "")).toEqual({
    level: "info",
    time: expect.stringMatching(/^\d{4}-.*Z$/),
    pid: process.pid,
    requestId: "req_1",
    method: "GET",
    amountNanos: "9007199254740993",
    event: "1970-01-01T00:00:00.000Z",
    dropped: 2,
    message: "answered %s",
  });
});

test("a child's fields pass by name only, too", () => {
  const lines: string[] = [];
  const logger = createLogger({ level: "info", stream: { write: (line) => lines.push(line) } });
  const fields: Record<string, unknown> = {
    Authorization: password,
    headers: { cookie: password },
  };

  logger.child(fields).warn("m");

  expect(lines.join("")).not.toContain("hunter2");
});

test("an error is described down its causes, and circles end", () => {
  const inner = Object.assign(new TypeError("inner"), { code: "E_INNER" });
  const circle = new Error("circle");
  circle.cause = circle;

  const { err } = JSON.parse(lineOf("m", { err: new RangeError("outer", { cause: inner }) }));
  lineOf("m", { err: circle });

  expect(err).toMatchObject({
    type: "RangeError",
    message: "outer",
    stack: expect.stringContaining("log.test.ts"),
    cause: { type: "TypeError", message: "inner", code: "E_INNER" },
  });
});

test("a line in a span names its trace", async () => {
  const { AsyncLocalStorageContextManager } = await import("@opentelemetry/context-async-hooks");
  const manager = new AsyncLocalStorageContextManager();
  context.setGlobalContextManager(manager.enable());
  const span = { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7" };
  const inSpan = trace.setSpanContext(ROOT_CONTEXT, { ...span, traceFlags: 1 });

  const line = context.with(inSpan, () => lineOf("m"));

  context.disable();
  expect(JSON.parse(line)).toMatchObject(span);
});
