import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { expect, test as plain } from "vitest";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { startTestApp } from "./support/app.ts";
import { free, paid, price, readAll, reasonOf, send, setUp } from "./support/calls.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

test("credentials, hops and cookies end at the gateway, in both directions", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.setHeader("set-cookie", ["session=stolen", "b=c"]);
    response.setHeader("connection", "x-hop");
    response.setHeader("x-hop", "1");
    response.setHeader("keep-alive", "timeout=1");
    response.setHeader("strict-transport-security", "max-age=1");
    response.setHeader("x-callora-charged-nanos", "0");
    response.setHeader("x-kept", ["1", "2"]);
    response.end("ok");
  });
  const { raw, secret } = await setUp(app, upstream.url);

  const response = await send(
    raw({
      headers: {
        authorization: `Bearer ${secret}`,
        cookie: "session=mine",
        connection: "close, x-gone",
        "x-gone": "1",
        te: "trailers",
        "x-forwarded-for": "1.2.3.4",
        "x-kept": "1",
      },
    }),
  );
  await readAll(response);

  const sent = upstream.requests[0]?.headers ?? {};
  expect(JSON.stringify(sent)).not.toContain(secret);
  for (const name of ["x-api-key", "authorization", "cookie", "x-gone", "te"]) {
    expect(sent, name).not.toHaveProperty(name);
  }
  expect(sent).toMatchObject({ "x-kept": "1", "x-forwarded-for": "127.0.0.1" });
  for (const name of ["set-cookie", "x-hop", "strict-transport-security"]) {
    expect(response.headers, name).not.toHaveProperty(name);
  }
  expect(response.headers).toMatchObject({
    "x-kept": "1, 2",
    "x-callora-charged-nanos": String(price),
    "content-security-policy": "sandbox",
  });
});

test.for(["..", "a/../../b", "%2e%2e/x", "a/%2E", "..%2fx", "..\\x"])(
  "the path %s is refused before it costs anything",
  async (rest, { app }) => {
    await using upstream = await startUpstream();
    const { raw, path, call, events } = await setUp(app, `${upstream.url}/base`);

    const response = await send(raw({ path: `${path}${rest}` }));

    expect([400, 404]).toContain(response.statusCode);
    await readAll(response);
    await (await call("fine")).text();
    expect(await events()).toEqual(paid(200));
    expect(upstream.requests.map(({ url }) => url)).toEqual(["/base/fine"]);
  },
);

test("the path and the query go on as they were sent", async ({ app }) => {
  await using upstream = await startUpstream();
  const { raw, path } = await setUp(app, `${upstream.url}/base/`);
  const rest = "a%2Fb//c%20d;e=1/?q=a%20b&r=%26&empty=&s=a+b";

  await readAll(await send(raw({ path: `${path}${rest}` })));

  expect(upstream.requests[0]?.url).toBe(`/base/${rest}`);
});

test("a key opens its own API, while it lives, and nothing else", async ({ app }) => {
  await using upstream = await startUpstream();
  const { api, consumer, developer, secret, call } = await setUp(app, upstream.url);
  const other = await app.api(developer, { upstreamUrl: upstream.url });
  const at = (slug: string, headers: Record<string, string>) =>
    fetch(`${app.url}/v1/call/${slug}/x`, { headers });
  const outcome = async (response: Response) => [response.status, await reasonOf(response)];

  expect(await outcome(await at(other.slug, { "x-api-key": secret }))).toEqual([
    403,
    "KEY_NOT_FOR_API",
  ]);
  expect(await outcome(await at("no-such-api", { "x-api-key": secret }))).toEqual([
    404,
    "API_NOT_FOUND",
  ]);
  expect((await at(api.slug, {})).status).toBe(401);
  expect((await at(api.slug, { "x-api-key": `${secret}x` })).status).toBe(401);
  expect((await at(api.slug, { authorization: `Bearer ${secret}` })).status).toBe(200);
  const keys = app.client(KeyService, consumer.token);
  const { keys: listed } = await keys.listKeys({});
  await keys.revokeKey({ keyId: listed[0]?.id ?? "" });
  expect((await call()).status).toBe(401);
  expect(upstream.requests).toHaveLength(1);
});

plain("a name that leads to a private address is refused when connecting", async () => {
  await using app = await startTestApp({ GATEWAY_ALLOW_PRIVATE_UPSTREAMS: "" });
  await using upstream = await startUpstream();
  const { port } = new URL(upstream.url);
  const { call, events } = await setUp(app, `http://localhost:${port}`);

  const response = await call();

  expect([response.status, await reasonOf(response)]).toEqual([502, "UPSTREAM_NOT_ALLOWED"]);
  expect(await events()).toEqual(free(502));
  expect(upstream.requests).toHaveLength(0);
});

test.for(["127.0.0.1", "localhost"])(
  "the server's own ports are no upstream, by %s",
  async (host, { app }) => {
    const own = [new URL(app.url), new URL(app.urls.app), new URL(app.network.horizonUrl)];
    for (const { port } of own) {
      const { call, api } = await setUp(app, "http://127.0.0.1:9");
      await asSuperuser(app, (client) =>
        client.query("update api_upstreams set url = $1 where api_id = $2", [
          `http://${host}:${port}/`,
          api.id,
        ]),
      );

      const response = await call();

      expect([response.status, await reasonOf(response)]).toEqual([502, "UPSTREAM_NOT_ALLOWED"]);
    }
  },
);

test("an answer that is no HTTP is a failure, free", async ({ app }) => {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on("error", () => {}));
    socket.once("data", () => socket.end("SSH-2.0-OpenSSH\r\n\r\n"));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const { call, events } = await setUp(app, `http://127.0.0.1:${port}`);

  const response = await call();

  expect(response.status).toBe(502);
  expect(await events()).toEqual(free(502));
  for (const socket of sockets) {
    socket.destroy();
  }
  server.close();
});

test("two requests in one cannot be smuggled through", async ({ app }) => {
  await using upstream = await startUpstream();
  const { path, secret } = await setUp(app, upstream.url);
  const socket = connect(Number(new URL(app.url).port), "127.0.0.1");
  const inner = "GET /inner HTTP/1.1\r\nhost: x\r\n\r\n";

  socket.write(
    `POST ${path} HTTP/1.1\r\nhost: x\r\nx-api-key: ${secret}\r\n` +
      `content-length: ${inner.length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n${inner}`,
  );
  socket.end();
  await readAll(socket);

  expect(upstream.requests.filter(({ url }) => url === "/inner")).toEqual([]);
});
