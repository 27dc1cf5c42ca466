import { expect } from "vitest";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { LimitService } from "../gen/callora/limits/v1/limit_service_pb.ts";
import { RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { until } from "./support/app.ts";
import { paid, price, reasonOf, setUp } from "./support/calls.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

const oneSecond = { seconds: 1n, nanos: 0 };
/** In this an upstream that answers has answered, though the machine is busy. */
const threeSeconds = { seconds: 3n, nanos: 0 };

/** What a reply says of its call's terms. */
function termsOf({ headers }: Response) {
  const nanos = (name: string) => headers.get(`x-callora-${name}`);
  return {
    charged: nanos("charged-nanos"),
    remaining: nanos("remaining-nanos"),
    version: nanos("price-version"),
    hasId: headers.has("x-request-id"),
    hasLimits: ["limit", "remaining", "reset"].every((one) => headers.has(`x-ratelimit-${one}`)),
  };
}

/** What an error says whose call found its route. */
const told = (charged: bigint, left = 50n * price) => ({
  charged: String(charged),
  remaining: String(left - charged),
  version: "1",
  hasId: true,
  hasLimits: true,
});

/** The parts of a reply's Server-Timing, in milliseconds. */
function timingOf({ headers }: Response): Record<string, number> {
  const parts = headers.get("server-timing")?.split(", ") ?? [];
  return Object.fromEntries(
    parts.map((part) => {
      const [name = "", ms = ""] = part.split(";dur=");
      return [name, Number(ms)];
    }),
  );
}

/** An upstream that answers with the status that is its path, hangs up at `/none` and hangs at `/never`. */
const startMoody = () =>
  startUpstream((incoming, response) => {
    const what = (incoming.url ?? "").slice(1);
    if (what === "none") {
      incoming.socket.destroy();
    } else if (what !== "never") {
      response.statusCode = Number(what);
      response.end("no");
    }
  });

test.for<[number, string, bigint]>([
  [502, "none", 0n],
  [504, "never", 0n],
  [503, "503", 0n],
  [500, "500", 0n],
  [429, "429", price],
  [404, "404", price],
])(
  "%i of an upstream (%s) says what it cost and what is left",
  async ([status, rest, cost], { app }) => {
    await using upstream = await startMoody();
    const settings = { retries: 0, ...(rest === "never" ? { timeout: oneSecond } : {}) };
    const { call } = await setUp(app, upstream.url, { settings });

    const response = await call(rest);

    expect(response.status).toBe(status);
    expect(termsOf(response)).toEqual(told(cost));
  },
);

test("402 says that nothing was charged, and what there is", async ({ app }) => {
  await using upstream = await startUpstream();
  const { call } = await setUp(app, upstream.url, { callNanos: 51n * price });

  const response = await call();

  expect(response.status).toBe(402);
  expect(termsOf(response)).toEqual(told(0n));
});

test("429 of a key's own limit does, too", async ({ app }) => {
  await using upstream = await startUpstream();
  const { call, consumer } = await setUp(app, upstream.url);
  const keys = app.client(KeyService, consumer.token);
  const { keys: listed } = await keys.listKeys({});
  await keys.updateKey({ keyId: listed[0]?.id ?? "", rateLimitPerMinute: 1 });

  await (await call()).text();
  const response = await call();

  expect([response.status, await reasonOf(response)]).toEqual([429, "RATE_LIMITED"]);
  expect(termsOf(response)).toEqual(told(0n, 49n * price));
});

test("429 of the limit on all of a key's requests does, though the call is not looked at", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call, consumer } = await setUp(app, upstream.url);
  const { keys: listed } = await app.client(KeyService, consumer.token).listKeys({});
  const whose = { accountId: consumer.accountId, subjectId: listed[0]?.id ?? "" };
  const limits = app.client(LimitService, (await app.admin()).token);
  await limits.setRateOverride({ ...whose, rateClass: RateClass.V1, perMinute: 1, burst: 2 });

  await (await call()).text();
  await (await call()).text();
  const response = await call();

  expect([response.status, await reasonOf(response)]).toEqual([429, "RATE_LIMITED"]);
  expect(termsOf(response)).toEqual(told(0n, 48n * price));
  expect(upstream.requests).toHaveLength(2);
});

test("503 of an upstream that is not called at present does, too", async ({ app }) => {
  const { call } = await setUp(app, "http://127.0.0.1:9", { settings: { retries: 0 } });

  let response = await call();
  for (let tries = 0; response.status === 502 && tries < 50; tries++) {
    response = await call();
  }

  expect([response.status, await reasonOf(response)]).toEqual([503, "UPSTREAM_CIRCUIT_OPEN"]);
  expect(termsOf(response)).toEqual(told(0n));
});

test("401 of a key that was revoked while the upstream worked says what its work cost", async ({
  app,
}) => {
  await using upstream = await startMoody();
  const { call, consumer, events } = await setUp(app, upstream.url);
  const reply = call("never");
  await until(() => upstream.requests.length === 1);

  const keys = app.client(KeyService, consumer.token);
  const { keys: listed } = await keys.listKeys({});
  await keys.revokeKey({ keyId: listed[0]?.id ?? "" });
  const response = await reply;

  expect(response.status).toBe(401);
  expect(termsOf(response)).toEqual(told(price));
  expect(await events()).toEqual(paid(499));
});

test("a call without a route or a key is told that it cost nothing, and no price", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call } = await setUp(app, upstream.url, { routes: [{ path: "/known" }] });

  const unknown = termsOf(await call("unknown"));
  const stranger = termsOf(await call("known", { headers: { "x-api-key": "" } }));

  expect(unknown).toMatchObject({ charged: "0", remaining: null, version: null, hasLimits: true });
  expect(stranger).toMatchObject({ charged: "0", remaining: null, version: null, hasId: true });
});

test.for(["a reply", "an error"])(
  "the time of tries that failed is the upstreams', not the gateway's own (%s)",
  async (what, { app }) => {
    await using silent = await startMoody();
    await using upstream = await startUpstream();
    const spare = what === "a reply" ? upstream : silent;
    const upstreams = [
      { url: silent.url, weight: 1 },
      { url: spare.url, weight: 0 },
    ];
    const settings = { upstreams, timeout: threeSeconds, retries: 1 };
    const { call } = await setUp(app, upstream.url, { settings });
    const tries = what === "a reply" ? 1 : 2;

    const begunMs = performance.now();
    const response = await call("never");
    const tookMs = performance.now() - begunMs;

    const { gateway = NaN, upstream: theirs = NaN } = timingOf(response);
    expect(response.status).toBe(what === "a reply" ? 200 : 504);
    expect(theirs).toBeGreaterThan(tries * 2_900);
    // However slow the machine is, no time counts twice.
    expect(gateway + theirs).toBeLessThan(tookMs + 1);
  },
);
