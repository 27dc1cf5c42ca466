import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { type IncomingMessage, request, type ServerResponse } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { Readable } from "node:stream";
import { expect, test as plain } from "vitest";
import { startTestApp, until } from "./support/app.ts";
import { free, paid, pieces, price, readAll, reasonOf, send, setUp } from "./support/calls.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

test.for([200, 201, 301, 404, 418, 429])(
  "an upstream's %d is passed on and charged",
  async (status, { app }) => {
    await using upstream = await startUpstream((_request, response) => {
      response.writeHead(status, "As It Likes", { location: "/elsewhere", "x-mood": "fine" });
      response.end("body");
    });
    const { call, path, events } = await setUp(app, upstream.url);

    const response = await call();

    expect(response.status).toBe(status);
    expect(response.headers.get("location")).toBe(`${path}elsewhere`);
    expect(response.headers.get("x-mood")).toBe("fine");
    expect(response.headers.get("x-callora-charged-nanos")).toBe(String(price));
    expect(await response.text()).toBe("body");
    expect(await events()).toEqual(paid(status));
    expect(upstream.requests).toHaveLength(1);
  },
);

test.for(["https://elsewhere.example/x", "/v1/call/dear-api/x"])(
  "a redirect to %s is told, but no client follows it with its key",
  async (location, { app }) => {
    await using upstream = await startUpstream((_request, response) => {
      response.writeHead(302, { location, refresh: `0; url=${location}` }).end();
    });
    const { call, events } = await setUp(app, `${upstream.url}/base`);

    const response = await call("x", { redirect: "follow" });

    expect(response.status).toBe(302);
    expect(response.headers.get("x-callora-location")).toBe(`${new URL(location, upstream.url)}`);
    expect(response.headers.has("refresh")).toBe(false);
    expect(upstream.requests).toHaveLength(1);
    expect(await events()).toEqual(paid(302));
  },
);

test.for([500, 503, 599])("an upstream's %d is passed on and free", async (status, { app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.writeHead(status, { "x-callora-charged-nanos": "77" });
    response.end("why");
  });
  const { call, events } = await setUp(app, upstream.url);

  const response = await call();

  expect(response.status).toBe(status);
  expect(response.headers.get("x-callora-charged-nanos")).toBe("0");
  expect(await response.text()).toBe("why");
  expect(await events()).toEqual(free(status));
});

test("a status that does not exist is a failure of the upstream, and free", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.writeHead(999).end("odd");
  });
  const { call, events } = await setUp(app, upstream.url);

  const response = await call();

  expect([response.status, await reasonOf(response)]).toEqual([502, "UPSTREAM_INVALID"]);
  expect(await events()).toEqual(free(502));
});

test("an upstream that refuses the connection answers 502, free", async ({ app }) => {
  const { call, events } = await setUp(app, "http://127.0.0.1:9");

  const response = await call();

  expect([response.status, await reasonOf(response)]).toEqual([502, "UPSTREAM_UNREACHABLE"]);
  expect(await events()).toEqual(free(502));
});

test("an upstream that hangs up without an answer is 502, free, and not asked again", async ({
  app,
}) => {
  await using upstream = await startUpstream((request) => request.socket.destroy());
  const { call, events } = await setUp(app, upstream.url);

  const response = await call("", { method: "POST", body: "pay me" });

  expect(response.status).toBe(502);
  expect(await events()).toEqual(free(502));
  expect(upstream.requests).toHaveLength(1);
});

plain(
  "an upstream that does not answer in time is 504, free; so is one that stops half-way",
  async () => {
    await using app = await startTestApp({ GATEWAY_UPSTREAM_TIMEOUT_MS: "3000" });
    await using upstream = await startUpstream((request, response) => {
      if (request.url === "/half") {
        response.writeHead(200, { "content-length": "100000" });
        response.write("half");
      }
    });
    const { call, events } = await setUp(app, upstream.url);

    const half = call("half").then((response) => response.text());
    const isBroken = expect(half).rejects.toThrow();
    const silent = await call("silent");

    expect([silent.status, await reasonOf(silent)]).toEqual([504, "UPSTREAM_TIMEOUT"]);
    await isBroken;
    expect(await events(2)).toEqual([...free(504), ...free(504)]);
  },
);

const size = 12_000_000;
const blob = randomBytes(size);
const digest = (data: Buffer) => createHash("sha256").update(data).digest("hex");

test.for(["with a length", "chunked"])(
  "a large reply passes through byte by byte, %s",
  async (kind, { app }) => {
    await using upstream = await startUpstream((_request, response) => {
      if (kind === "with a length") {
        response.setHeader("content-length", size);
      }
      response.setHeader("content-encoding", "br");
      Readable.from(pieces(blob)).pipe(response);
    });
    const { raw, events } = await setUp(app, upstream.url);

    const response = await send(raw());
    const body = await readAll(response);

    expect(digest(body)).toBe(digest(blob));
    expect(response.headers["content-encoding"]).toBe("br");
    expect(response.headers["content-length"]).toBe(
      kind === "with a length" ? String(size) : undefined,
    );
    expect(await events()).toEqual(paid(200));
  },
);

test.for(["with a length", "chunked"])(
  "a large request passes through byte by byte, %s",
  async (kind, { app }) => {
    const got: { headers: IncomingMessage["headers"]; body: string }[] = [];
    await using upstream = await startUpstream((request, response) => {
      void readAll(request).then((body) => {
        got.push({ headers: request.headers, body: digest(body) });
        response.end("thanks");
      });
    });
    const { raw, events } = await setUp(app, upstream.url);
    const headers = kind === "with a length" ? { "content-length": size } : {};

    const response = await send(raw({ method: "POST", headers }), Readable.from(pieces(blob)));

    expect((await readAll(response)).toString()).toBe("thanks");
    expect(got[0]?.body).toBe(digest(blob));
    expect(got[0]?.headers["content-length"]).toBe(
      kind === "with a length" ? String(size) : undefined,
    );
    expect(await events()).toEqual(paid(200));
  },
);

test("a call over HTTP/2 passes through, request and reply", async ({ app }) => {
  await using upstream = await startUpstream((request, response) => {
    request.pipe(response);
  });
  const { path, secret, events } = await setUp(app, upstream.url);
  const session = connectHttp2(app.url);

  const stream = session.request({ ":method": "POST", ":path": `${path}a`, "x-api-key": secret });
  Readable.from(pieces(blob.subarray(0, 1_000_000))).pipe(stream);
  const [headers] = await once(stream, "response");
  const body = await readAll(stream);
  const plainGet = session.request({ ":path": `${path}b`, "x-api-key": secret });
  const empty = await readAll(plainGet);
  session.close();

  expect(headers[":status"]).toBe(200);
  expect(digest(body)).toBe(digest(blob.subarray(0, 1_000_000)));
  expect(empty).toHaveLength(0);
  expect(await events(2)).toEqual([...paid(200), ...paid(200)]);
  expect(upstream.requests.map(({ method }) => method)).toEqual(["POST", "GET"]);
  expect(upstream.requests[1]?.headers).not.toHaveProperty("transfer-encoding");
});

test("HEAD has the length of what GET would have, and no body", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.writeHead(200, { "content-length": "1234" }).end();
  });
  const { call, events } = await setUp(app, upstream.url);

  const response = await call("", { method: "HEAD" });

  expect(response.headers.get("content-length")).toBe("1234");
  expect(await response.text()).toBe("");
  expect(upstream.requests[0]?.method).toBe("HEAD");
  expect(await events()).toEqual(paid(200));
});

test("each part of a stream arrives when it is sent, not with the next", async ({ app }) => {
  let upstreamResponse: ServerResponse | undefined;
  await using upstream = await startUpstream((_request, response) => {
    upstreamResponse = response;
    response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
  });
  const { raw, events } = await setUp(app, upstream.url);

  const response = await send(raw());
  const parts: string[] = [];
  for (const part of ["data: 1\n\n", "data: 2\n\n"]) {
    upstreamResponse?.write(part);
    const [chunk] = await once(response, "data");
    parts.push(String(chunk));
  }
  upstreamResponse?.end();
  await once(response, "end");

  expect(parts).toEqual(["data: 1\n\n", "data: 2\n\n"]);
  expect(await events()).toEqual(paid(200));
});

test("an upstream cannot send faster than the consumer reads", async ({ app }) => {
  let written = 0;
  let stalls = 0;
  await using upstream = await startUpstream((_request, response) => {
    const part = Buffer.alloc(256 * 1024);
    const push = () => {
      while (written < 400 * 1024 * 1024 && response.write(part)) {
        written += part.length;
      }
      stalls += 1;
      response.once("drain", push);
    };
    push();
  });
  const { raw } = await setUp(app, upstream.url);

  const response = await send(raw());
  response.pause();
  let before = -1;
  await until(async () => {
    const isStill = written === before;
    before = written;
    await new Promise((resolve) => setTimeout(resolve, 150));
    return isStill;
  });
  response.destroy();

  expect(stalls).toBeGreaterThan(0);
  expect(written).toBeLessThan(40 * 1024 * 1024);
});

test.for(["with a length", "chunked", "before the first byte"])(
  "an upstream that dies in the body, %s, is free, and nobody takes the reply for whole",
  async (kind, { app }) => {
    await using upstream = await startUpstream((_request, response) => {
      if (kind !== "chunked") {
        response.setHeader("content-length", "1000");
      }
      response.setHeader("content-encoding", "gzip");
      response.flushHeaders();
      if (kind !== "before the first byte") {
        response.write("half of it");
      }
      setImmediate(() => setImmediate(() => response.destroy()));
    });
    const { call, events } = await setUp(app, upstream.url);

    const reply = await call("", { headers: { "accept-encoding": "identity" } })
      .then(
        async (response) => ({ status: response.status, body: await response.text() }),
        () => undefined,
      )
      .catch(() => undefined);

    expect(reply?.status ?? 502).toBe(502);
    expect(await events()).toEqual(free(502));
  },
);

test("an upstream that answers before it has read the request is heard", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.writeHead(413, { connection: "close" }).end("too large");
  });
  const { raw, events } = await setUp(app, upstream.url);

  const sending = request(raw({ method: "POST" })).on("error", () => {});
  sending.write("begin");
  const [response] = (await once(sending, "response")) as [IncomingMessage];
  const body = await readAll(response);
  sending.destroy();

  expect([response.statusCode, body.toString()]).toEqual([413, "too large"]);
  expect(await events()).toEqual(paid(413));
});

type Answer = (response: ServerResponse) => void;

test.for<[string, string, Answer]>([
  [
    "a reply with a length",
    "GET",
    (response) => response.setHeader("content-length", 4).end("done"),
  ],
  [
    "a chunked reply",
    "GET",
    (response) => {
      response.write("do");
      response.end("ne");
    },
  ],
  ["a reply without a body", "GET", (response) => response.writeHead(204).end()],
  ["an empty reply", "GET", (response) => response.setHeader("content-length", 0).end()],
  ["a reply to HEAD", "HEAD", (response) => response.setHeader("content-length", 4).end()],
  ["a failure", "GET", (response) => response.destroy()],
])("%s ends only once its event is durable", async ([, method, answer], { app }) => {
  await using upstream = await startUpstream((_request, response) => answer(response));
  const { raw, events } = await setUp(app, upstream.url);
  let isWhole = false;

  await asSuperuser(app, async (client) => {
    await client.query("begin");
    await client.query("select from journal_head for update");
    const reply = send(raw({ method })).then(async (response) => {
      // A reply with a length is whole for its reader when it has that many bytes.
      const body = await readAll(response);
      isWhole = true;
      return { status: response.statusCode, body: body.toString() };
    });
    await until(() => isAppendWaiting(app));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(isWhole).toBe(false);
    await client.query("rollback");
    await reply;
  });

  expect(isWhole).toBe(true);
  expect(await events()).toHaveLength(1);
});

test("a stream shows what it has while its event waits, but not its end", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.write("all");
    response.end(" of it");
  });
  const { raw } = await setUp(app, upstream.url);

  await asSuperuser(app, async (client) => {
    await client.query("begin");
    await client.query("select from journal_head for update");
    const response = await send(raw());
    response.on("data", () => {});
    await until(() => isAppendWaiting(app));
    expect(response.complete).toBe(false);
    const ended = once(response, "end");
    await client.query("rollback");
    await ended;
    expect(response.complete).toBe(true);
  });
});

/** From a session of its own: in a transaction the activity of others is read once. */
function isAppendWaiting(app: App): Promise<boolean> {
  return asSuperuser(app, async (client) => {
    const { rowCount } = await client.query(
      "select from pg_stat_activity where datname = current_database() " +
        "and wait_event_type = 'Lock' and query like '%journal_head%'",
    );
    return rowCount === 1;
  });
}
