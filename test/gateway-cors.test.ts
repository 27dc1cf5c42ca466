import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { expect, test as plain } from "vitest";
import { startTestApp } from "./support/app.ts";
import { readAll, send, setUp } from "./support/calls.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

const page = "https://shop.example";

function preflight(url: string, origin = page): Promise<Response> {
  const headers = {
    origin,
    "access-control-request-method": "PUT",
    "access-control-request-headers": "x-api-key,content-type",
  };
  return fetch(url, { method: "OPTIONS", headers });
}

test("a browser hears from the gateway which pages may call an API, never from the upstream", async ({
  app,
}) => {
  await using upstream = await startUpstream((_request, response) => {
    response.setHeader("access-control-allow-origin", "https://evil.example");
    response.setHeader("access-control-allow-credentials", "true");
    response.setHeader("vary", "accept");
    response.end("ok");
  });
  const { call, path } = await setUp(app, upstream.url, { settings: { corsOrigins: [page] } });

  const asked = await preflight(`${app.url}${path}x`);
  const stranger = await preflight(`${app.url}${path}x`, "https://evil.example");
  const answered = await call("x", { headers: { origin: page } });
  const elsewhere = await call("x", { headers: { origin: "https://evil.example" } });
  const refused = await fetch(`${app.url}${path}x`, { headers: { origin: page } });

  expect(asked.status).toBe(204);
  expect(Object.fromEntries(asked.headers)).toMatchObject({
    "access-control-allow-origin": page,
    "access-control-allow-methods": "PUT",
    "access-control-allow-headers": "x-api-key,content-type",
  });
  expect(stranger.headers.has("access-control-allow-origin")).toBe(false);
  expect(answered.headers.get("access-control-allow-origin")).toBe(page);
  expect(answered.headers.has("access-control-allow-credentials")).toBe(false);
  expect(answered.headers.get("access-control-expose-headers")).toContain(
    "X-Callora-Charged-Nanos",
  );
  expect(answered.headers.get("vary")?.split(/, */).sort()).toEqual(["accept", "origin"]);
  expect(elsewhere.headers.has("access-control-allow-origin")).toBe(false);
  expect(refused.status).toBe(401);
  expect(refused.headers.get("access-control-allow-origin")).toBe(page);
  expect(upstream.requests.map(({ method }) => method)).toEqual(["GET", "GET"]);
});

test("of an API whose developer allows no page, browsers learn nothing; OPTIONS passes", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call, path } = await setUp(app, upstream.url);

  const asked = await preflight(`${app.url}${path}x`);
  const unknown = await preflight(`${app.url}/v1/call/no-such-api/x`);
  const own = await call("x", { method: "OPTIONS" });

  expect([asked.status, unknown.status]).toEqual([204, 204]);
  expect([...asked.headers.keys()].filter((name) => name.startsWith("access-"))).toEqual([]);
  expect(own.status).toBe(200);
  expect(upstream.requests.map(({ method }) => method)).toEqual(["OPTIONS"]);
});

test("every page may call an API that is open to all, without credentials of the browser", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call } = await setUp(app, upstream.url, { settings: { corsOrigins: ["*"] } });

  const response = await call("", { headers: { origin: "https://any.example" } });

  expect(response.headers.get("access-control-allow-origin")).toBe("*");
  expect(response.headers.has("access-control-allow-credentials")).toBe(false);
});

test("a WebSocket, TRACE and CONNECT are refused clearly, and cost nothing", async ({ app }) => {
  await using upstream = await startUpstream();
  const { raw, path, secret } = await setUp(app, upstream.url);
  const upgrade = {
    connection: "upgrade",
    upgrade: "websocket",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
  };

  const asked = await send(raw({ headers: upgrade }));
  const body = (await readAll(asked)).toString();
  const traced = await send(raw({ method: "TRACE" }));
  const session = connectHttp2(app.url);
  const offered = await send(raw({ headers: { connection: "upgrade", upgrade: "h2c" } }));
  const stream = session.request({ ":method": "TRACE", ":path": path, "x-api-key": secret });
  const [headers] = await once(stream.end(), "response");
  session.close();

  expect(asked.statusCode).toBe(501);
  expect(body).toContain("UPGRADE_NOT_SUPPORTED");
  expect([traced.statusCode, headers[":status"]]).toEqual([501, 501]);
  expect(offered.statusCode).toBe(200);
  expect(upstream.requests.map(({ method }) => method)).toEqual(["GET"]);
  expect(upstream.requests[0]?.headers).not.toHaveProperty("upgrade");
});

plain("with a host of its own the gateway is served there alone, and nothing else is", async () => {
  await using app = await startTestApp({ GATEWAY_HOST: "Calls.example" });
  await using upstream = await startUpstream();
  const { raw, path } = await setUp(app, upstream.url);
  const at = async (host: string, target: string) => {
    const response = await send(raw({ path: target, headers: { host } }));
    return [response.statusCode, /MISDIRECTED/.test(String(await readAll(response)))];
  };

  expect(await at("calls.example", path)).toEqual([200, false]);
  expect(await at("calls.example:8443", path)).toEqual([200, false]);
  expect(await at("callora.example", path)).toEqual([421, true]);
  expect(await at("calls.example", "/api/health")).toEqual([421, true]);
  expect(await at("calls.example", "/nothing")).toEqual([421, true]);
  expect(await at("callora.example", "/nothing")).toEqual([404, false]);
  expect((await at("callora.example", "/api/health"))[0]).toBe(200);
  expect(upstream.requests).toHaveLength(2);
});
