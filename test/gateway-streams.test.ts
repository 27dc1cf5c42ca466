import { once } from "node:events";
import { request } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { Readable } from "node:stream";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { expect } from "vitest";
import { DeliveryMode } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { type PriceRuleSchema, TierMode } from "../gen/callora/catalog/v1/price_pb.ts";
import { Mode } from "../gen/callora/keys/v1/key_pb.ts";
import { until } from "./support/app.ts";
import { free, paid, price, readAll, send, setUp } from "./support/calls.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

/** A thousand nanos for each token that the reply names, at most ten thousand tokens. */
const perToken = {
  callNanos: 5n,
  units: {
    from: { case: "jsonPath" as const, value: "$.usage.total_tokens" },
    missingUnits: 7n,
  },
  tiers: [{ lastUnit: 0n, nanos: 1_000n }],
  tierMode: TierMode.GRADUATED,
  unitsMax: 10_000n,
} satisfies MessageInitShape<typeof PriceRuleSchema>;

const events = ['data: {"a":1}\n\n', 'data: {"usage":{"total_tokens":42}}\n\n', "data: [DONE]\n\n"];

test("a stream that is priced by its last words says what it cost after them", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.setHeader("content-type", "text/event-stream");
    Readable.from(events).pipe(response);
  });
  const { raw, path, secret, events: charged } = await setUp(app, upstream.url, { rule: perToken });

  const response = await send(raw({ headers: { "accept-encoding": "gzip" } }));
  const body = String(await readAll(response));
  const session = connectHttp2(app.url);
  const stream = session.request({ ":path": path, "x-api-key": secret });
  const trailers = once(stream, "trailers");
  stream.resume();
  const [named] = await trailers;
  session.close();

  expect(body).toBe(events.join(""));
  expect(response.headers["x-callora-reserved-nanos"]).toBe("10000005");
  expect(response.headers).not.toHaveProperty("x-callora-charged-nanos");
  expect(response.trailers).toEqual({ "x-callora-charged-nanos": "42005" });
  expect(named).toMatchObject({ "x-callora-charged-nanos": "42005" });
  expect(upstream.requests[0]?.headers["accept-encoding"]).toBe("identity");
  expect(await charged(2)).toEqual([
    { status: 200, charged: 42_005n },
    { status: 200, charged: 42_005n },
  ]);
});

test("a short reply that is priced by what it says has its charge in its headers", async ({
  app,
}) => {
  await using upstream = await startUpstream((incoming, response) => {
    response.end(incoming.url === "/said" ? '{"usage":{"total_tokens":3}}' : "{}");
  });
  const { call, events: charged } = await setUp(app, upstream.url, { rule: perToken });

  const said = await call("said");
  const unsaid = await call("unsaid");

  expect(said.headers.get("x-callora-charged-nanos")).toBe("3005");
  expect(unsaid.headers.get("x-callora-charged-nanos")).toBe("7005");
  expect(await charged(2)).toEqual([
    { status: 200, charged: 3_005n },
    { status: 200, charged: 7_005n },
  ]);
});

test("where the developer wants it, a reply does not wait for its event, which is charged", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const settings = { delivery: DeliveryMode.ASYNC };
  const { call, events: charged } = await setUp(app, upstream.url, { settings });
  await (await call()).text();
  await charged(1);

  await asSuperuser(app, async (client) => {
    await client.query("begin");
    await client.query("select from journal_head for update");
    const response = await call();
    expect(response.headers.get("x-callora-charged-nanos")).toBe(String(price));
    expect(await response.text()).toBe('{"ok":true}');
    await client.query("rollback");
  });

  expect(await charged(2)).toEqual([...paid(200), ...paid(200)]);
});

test("a test key's call reaches no live upstream, and costs test credit alone", async ({ app }) => {
  await using live = await startUpstream();
  await using staging = await startUpstream();
  const echoed = await setUp(app, live.url, { mode: Mode.TEST });
  const staged = await setUp(app, live.url, {
    mode: Mode.TEST,
    settings: { testUpstreams: [{ url: staging.url, weight: 1 }] },
  });

  const echo = await echoed.call("a?b=c", { method: "POST", body: "hello" });
  const body = (await echo.json()) as Record<string, unknown>;
  const staging200 = await staged.call("x");

  expect([echo.status, echo.headers.get("x-callora-mode")]).toEqual([200, "test"]);
  expect(body).toMatchObject({ echo: true, method: "POST", query: "b=c" });
  expect(JSON.stringify(body)).not.toContain(echoed.secret);
  expect(staging200.status).toBe(200);
  expect(staging.requests).toHaveLength(1);
  expect(live.requests).toHaveLength(0);
  expect(await echoed.events()).toEqual(paid(200));
  expect(await staged.events()).toEqual(paid(200));
});

test("a call that cannot be paid is told what is missing, and reaches nobody", async ({ app }) => {
  await using upstream = await startUpstream();
  const { call } = await setUp(app, upstream.url, { callNanos: 51n * price });

  const response = await call();
  const { details } = (await response.json()) as { details: Record<string, unknown>[] };

  expect(response.status).toBe(402);
  expect(details[0]).toMatchObject({
    reason: "CREDIT_EXHAUSTED",
    metadata: {
      required_nanos: String(51n * price),
      available_nanos: String(50n * price),
      missing_nanos: String(price),
      reserved_nanos: "0",
    },
  });
  expect(upstream.requests).toHaveLength(0);
});

test("a call whose lease ended meanwhile is paid by another, once", async ({ app }) => {
  const held = Promise.withResolvers<void>();
  await using upstream = await startUpstream((incoming, response) => {
    void (incoming.url === "/held" ? held.promise : Promise.resolve()).then(() =>
      response.end("ok"),
    );
  });
  const { call, consumer, events: charged } = await setUp(app, upstream.url);
  await (await call("first")).text();
  const reply = call("held");
  await until(() => upstream.requests.length === 2);

  await asSuperuser(app, async (client) => {
    const owned = "where account_id = $1 and state = 'active'";
    const readEnd = async () => {
      const { rows } = await client.query(`select expire_at from credit_leases ${owned}`, [
        consumer.accountId,
      ]);
      return Number(rows[0].expire_at);
    };
    // Just renewed, it is not looked at for some seconds: nobody ends the call before it pays.
    const end = await readEnd();
    await until(async () => (await readEnd()) > end);
    await client.query(
      `update credit_leases set state = 'draining', fence = (select position from journal_head)
       ${owned}`,
      [consumer.accountId],
    );
  });
  held.resolve();

  expect((await reply).status).toBe(200);
  expect(await charged(2)).toEqual([...paid(200), ...paid(200)]);
});

const heldBytesMax = 24 * 1024 * 1024;
/** No more than it takes: a call that lasts long is cut when the database says nothing for some seconds. */
const bodyBytes = 32 * 1024 * 1024;
const part = Buffer.alloc(64 * 1024, "x");

test.for(["HTTP/1.1", "HTTP/2"])(
  "nothing is sent faster than it is read, in both directions at once, over %s",
  async (version, { app }) => {
    await using upstream = await startUpstream(
      (incoming, response) => void incoming.pipe(response),
    );
    const { raw, path, secret, events: charged } = await setUp(app, upstream.url);
    let sent = 0;
    function* parts(): Generator<Buffer> {
      for (; sent < bodyBytes; sent += part.length) {
        yield part;
      }
    }
    const body = Readable.from(parts());
    const session = connectHttp2(app.url);

    const reply =
      version === "HTTP/1.1"
        ? await send(raw({ method: "POST" }), body)
        : body.pipe(session.request({ ":method": "POST", ":path": path, "x-api-key": secret }));
    let before = -1;
    await until(async () => {
      const isStill = sent > 0 && sent === before;
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, 300));
      return isStill;
    });
    const held = sent;
    const received = await readAll(reply as Readable);
    session.close();

    expect(held).toBeLessThan(heldBytesMax);
    expect(received).toHaveLength(bodyBytes);
    expect(await charged()).toEqual(paid(200));
  },
);

test("a client that waits for a go-ahead gets it, and its body passes", async ({ app }) => {
  await using upstream = await startUpstream((incoming, response) => void incoming.pipe(response));
  const { raw } = await setUp(app, upstream.url);

  const headers = { expect: "100-continue", "content-length": 5 };
  const sending = request(raw({ method: "POST", headers }));
  sending.flushHeaders();
  await once(sending, "continue");
  sending.end("hello");
  const [response] = await once(sending, "response");

  expect(String(await readAll(response))).toBe("hello");
  expect(upstream.requests[0]?.headers).not.toHaveProperty("expect");
});

test("304 and validators pass through, and cost a call", async ({ app }) => {
  await using upstream = await startUpstream((incoming, response) => {
    const isKnown = incoming.headers["if-none-match"] === '"1"';
    response.writeHead(isKnown ? 304 : 200, { etag: '"1"', "cache-control": "max-age=5" });
    response.end(isKnown ? undefined : "new");
  });
  const { raw, events: charged } = await setUp(app, upstream.url);

  const first = await send(raw());
  await readAll(first);
  const second = await send(raw({ headers: { "if-none-match": '"1"' } }));
  const body = await readAll(second);

  expect([first.statusCode, second.statusCode, body.length]).toEqual([200, 304, 0]);
  expect(second.headers).toMatchObject({ etag: '"1"', "cache-control": "max-age=5" });
  expect(await charged(2)).toEqual([...paid(200), ...paid(304)]);
});

test("a failed call of a price by units is free", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.statusCode = 500;
    response.end('{"usage":{"total_tokens":3}}');
  });
  const { call, events: charged } = await setUp(app, upstream.url, { rule: perToken });

  expect((await call()).headers.get("x-callora-charged-nanos")).toBe("0");
  expect(await charged()).toEqual(free(500));
});

test("who leaves a stream before its last words pays what they say, if they come soon", async ({
  app,
}) => {
  const left = Promise.withResolvers<void>();
  let isCut = false;
  await using upstream = await startUpstream((incoming, response) => {
    response.setHeader("content-type", "text/event-stream");
    response.write(events[0]);
    response.on("close", () => {
      isCut = !response.writableFinished;
    });
    if (incoming.url !== "/silent") {
      void left.promise.then(() => response.end(events.slice(1).join("")));
    }
  });
  const { raw, path, events: charged } = await setUp(app, upstream.url, { rule: perToken });

  const said = await send(raw());
  await once(said, "data");
  said.on("error", () => {}).destroy();
  setTimeout(() => left.resolve(), 200);

  expect(await charged(1)).toEqual([{ status: 200, charged: 42_005n }]);
  expect(isCut).toBe(false);

  const silent = await send(raw({ path: `${path}silent` }));
  await once(silent, "data");
  silent.on("error", () => {}).destroy();

  // The upstream is cut when it says nothing for some seconds.
  expect((await charged(2))[1]).toEqual({ status: 200, charged: 7_005n });
  await until(() => isCut);
});
