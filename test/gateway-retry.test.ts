import { createServer } from "node:http";
import { expect } from "vitest";
import { free, paid, price, reasonOf, setUp } from "./support/calls.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

const dead = { url: "http://127.0.0.1:9", weight: 1 };

test.for(["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])(
  "%s is asked again of another upstream before the first byte, and charged once",
  async (method, { app }) => {
    let count = 0;
    await using broken = await startUpstream((request) => {
      count += 1;
      request.socket.destroy();
    });
    await using upstream = await startUpstream();
    const upstreams = [
      { url: broken.url, weight: 1 },
      { url: upstream.url, weight: 0 },
    ];
    const { call, events } = await setUp(app, upstream.url, { settings: { upstreams } });
    const body = method === "PUT" ? { body: "the same twice" } : {};

    const response = await call("x", { method, ...body });

    expect(response.status).toBe(200);
    expect(count).toBe(1);
    expect(upstream.requests).toHaveLength(1);
    expect(await events()).toEqual(paid(200));
  },
);

test("POST is asked again only when there was no connection", async ({ app }) => {
  await using broken = await startUpstream((request) => request.socket.destroy());
  await using upstream = await startUpstream((request, response) => void request.pipe(response));
  const spare = { url: upstream.url, weight: 0 };
  const once = await setUp(app, upstream.url, {
    settings: { upstreams: [{ url: broken.url, weight: 1 }, spare] },
  });
  const again = await setUp(app, upstream.url, { settings: { upstreams: [dead, spare] } });

  const refused = await once.call("x", { method: "POST", body: "pay me" });
  const passed = await again.call("x", { method: "POST", body: "pay me" });

  expect([refused.status, await reasonOf(refused)]).toEqual([502, "UPSTREAM_UNREACHABLE"]);
  expect(await passed.text()).toBe("pay me");
  expect(await once.events()).toEqual(free(502));
  expect(await again.events()).toEqual(paid(200));
});

test("nothing is asked again once the reply has begun, nor more often than the developer wants", async ({
  app,
}) => {
  let count = 0;
  await using upstream = await startUpstream((request, response) => {
    count += 1;
    if (request.url === "/begun") {
      response.write("half");
      setImmediate(() => setImmediate(() => response.destroy()));
    } else {
      request.socket.destroy();
    }
  });
  const { call, events } = await setUp(app, upstream.url, { settings: { retries: 2 } });

  const begun = await call("begun").then((response) => response.text().catch(() => null));
  const afterBegun = count;
  const silent = await call("silent");

  expect(begun).toBeNull();
  expect(afterBegun).toBe(1);
  expect(silent.status).toBe(502);
  expect(count - afterBegun).toBe(3);
  expect(await events(2)).toEqual([...free(502), ...free(502)]);
});

test("a 503 of one upstream is asked of another; without another it is passed on", async ({
  app,
}) => {
  await using busy = await startUpstream((_request, response) => {
    response.writeHead(503).end("busy");
  });
  await using upstream = await startUpstream();
  const upstreams = [
    { url: busy.url, weight: 1 },
    { url: upstream.url, weight: 0 },
  ];
  const two = await setUp(app, upstream.url, { settings: { upstreams } });
  const one = await setUp(app, busy.url);

  expect((await two.call("x")).status).toBe(200);
  expect((await two.call("x", { method: "POST", body: "x" })).status).toBe(503);
  const alone = await one.call("x");
  expect([alone.status, await alone.text()]).toEqual([503, "busy"]);
  expect(busy.requests).toHaveLength(3);
});

test("an upstream that fails all the time is not asked for a while", async ({ app }) => {
  const server = createServer((request) => request.socket.destroy()).listen(0);
  server.close();
  const { call } = await setUp(app, "http://127.0.0.1:9", { settings: { retries: 0 } });

  const reasons = new Set<string>();
  for (let round = 0; round < 30; round++) {
    const response = await call("x", { method: "POST" });
    reasons.add(
      `${response.status} ${await reasonOf(response)} ${response.headers.get("retry-after")}`,
    );
  }

  expect([...reasons]).toContainEqual(expect.stringMatching(/^503 UPSTREAM_CIRCUIT_OPEN [1-5]$/));
});

test("a reply says what it cost, by which price, what is left, and where the time went", async ({
  app,
}) => {
  await using upstream = await startUpstream((_request, response) => {
    response.setHeader("server-timing", "db;dur=3");
    setTimeout(() => response.end("ok"), 30);
  });
  const { call } = await setUp(app, upstream.url);

  const { headers } = await call();

  expect(Object.fromEntries(headers)).toMatchObject({
    "x-callora-charged-nanos": String(price),
    "x-callora-price-version": "1",
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox",
  });
  expect(headers.get("x-request-id")).toMatch(/./);
  expect(headers.get("x-ratelimit-limit")).toMatch(/^\d+$/);
  expect(BigInt(headers.get("x-callora-remaining-nanos") ?? -1)).toBeGreaterThan(0n);
  const timing = headers.get("server-timing") ?? "";
  expect(timing).toMatch(/^gateway;dur=[\d.]+, upstream;dur=[\d.]+.*, db;dur=3$/);
  const upstreamMs = Number(/upstream;dur=([\d.]+)/.exec(timing)?.[1]);
  const gatewayMs = Number(/gateway;dur=([\d.]+)/.exec(timing)?.[1]);
  expect(upstreamMs).toBeLessThan(gatewayMs + upstreamMs + 1);
});
