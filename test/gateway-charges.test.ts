import { once } from "node:events";
import { request, type ServerResponse } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { expect } from "vitest";
import { DeliveryMode } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { TierSpan } from "../gen/callora/catalog/v1/price_pb.ts";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { until } from "./support/app.ts";
import { free, paid, price, readAll, send, setUp } from "./support/calls.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

// Ways in which a consumer had the upstream's work without paying for it, or paid for what he did not get.

test.for([`GET${"X".repeat(500)}`, "PURGE"])(
  "a method that APIs do not have is refused: its event could not be counted: %s",
  async (method, { app }) => {
    await using upstream = await startUpstream();
    const { path, secret, call, events } = await setUp(app, upstream.url);
    const session = connectHttp2(app.url);

    const stream = session.request({ ":method": method, ":path": path, "x-api-key": secret });
    const [headers] = await once(stream, "response");
    const body = String(await readAll(stream));
    session.close();
    await (await call("fine")).text();

    expect([headers[":status"], headers.allow]).toEqual([
      405,
      "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, QUERY",
    ]);
    expect(body).toContain("METHOD_NOT_ALLOWED");
    expect(upstream.requests.map(({ url }) => url)).toEqual(["/fine"]);
    expect(await events()).toEqual(paid(200));
  },
);

/** A call whose request never ends, and whose reply has begun. */
async function beginBoth({ raw }: Pick<Awaited<ReturnType<typeof setUp>>, "raw">) {
  const sending = request(raw({ method: "POST" })).on("error", () => {});
  sending.write("{");
  const [response] = await once(sending, "response");
  await once(response, "data");
  return sending;
}

/** Answers before it has the request, and does not end. */
const answerAtOnce = (_request: unknown, response: ServerResponse) => void response.write("all");

test("a consumer who leaves in the middle of the reply pays", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.write("a first part");
  });
  const { raw, events } = await setUp(app, upstream.url);

  const response = await send(raw());
  await once(response, "data");
  response.destroy();

  expect(await events()).toEqual(paid(200));
});

test("a consumer who leaves while the upstream works pays", async ({ app }) => {
  await using upstream = await startUpstream(() => {});
  const { raw, events } = await setUp(app, upstream.url);

  const sending = request(raw()).on("error", () => {});
  sending.end();
  await until(() => upstream.requests.length === 1);
  sending.destroy();

  expect(await events()).toEqual(paid(499));
});

test("a consumer who leaves in the middle of the request does not pay", async ({ app }) => {
  await using upstream = await startUpstream(() => {});
  const { raw, events } = await setUp(app, upstream.url);

  const sending = request(raw({ method: "POST" })).on("error", () => {});
  sending.write("half of it");
  await until(() => upstream.requests.length === 1);
  sending.destroy();

  expect(await events()).toEqual(free(502));
});

test("a consumer who leaves amid a reply pays, also when he has not ended his request", async ({
  app,
}) => {
  await using upstream = await startUpstream(answerAtOnce);
  const call = await setUp(app, upstream.url);

  const sending = await beginBoth(call);
  sending.destroy();

  expect(await call.events()).toEqual(paid(200));
});

test("so does one whose key is revoked amid a reply", async ({ app }) => {
  await using upstream = await startUpstream(answerAtOnce);
  const call = await setUp(app, upstream.url);

  const sending = await beginBoth(call);
  const keys = app.client(KeyService, call.consumer.token);
  const { keys: listed } = await keys.listKeys({});
  await keys.revokeKey({ keyId: listed[0]?.id ?? "" });

  expect(await call.events()).toEqual(paid(200));
  sending.destroy();
});

test("a consumer who does not read the end of a reply pays for it", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => {
    response.setHeader("content-length", 40_000_000);
    response.end(Buffer.alloc(40_000_000));
  });
  // Time enough for the reply to begin on a busy machine.
  const durationMax = { seconds: 3n, nanos: 0 };
  const { raw, events } = await setUp(app, upstream.url, { settings: { durationMax } });

  const response = await send(raw());
  response.on("error", () => {}).pause();

  expect(await events()).toEqual(paid(200));
  response.destroy();
});

test("so does one who does not end his request, however long he waits", async ({ app }) => {
  await using upstream = await startUpstream(answerAtOnce);
  // Time enough for the reply to begin on a busy machine.
  const settings = { timeout: { seconds: 4n, nanos: 0 } };
  const call = await setUp(app, upstream.url, { settings });

  const sending = await beginBoth(call);

  expect(await call.events()).toEqual(paid(200));
  sending.destroy();
});

test("a call that is cut because the database is away is free", async ({ app }) => {
  await using upstream = await startUpstream((_request, response) => void response.write("some"));
  const { raw, events } = await setUp(app, upstream.url);
  const response = await send(raw());
  const closed = new Promise((resolve) => response.on("error", () => {}).on("close", resolve));
  response.resume();
  const rename = (from: string, to: string) =>
    asSuperuser(app, (client) =>
      client.query(`alter table processes${from} rename to processes${to};
        alter table api_keys${from} rename to api_keys${to}`),
    );

  await rename("", "_away");
  await closed;
  await rename("_away", "");

  expect(response.complete).toBe(false);
  expect(await events()).toEqual(free(503));
  await until(() => app.trust.stats().isHeld);
});

/** How often nothing paid for a call, and for one whose reply had not waited. */
async function unpaid(app: { url: string }): Promise<number[]> {
  const text = await (await fetch(`${app.url}/api/metrics`)).text();
  return ["callora_gateway_cut_unpaid_total", "callora_gateway_async_lost_total"].map((name) =>
    Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text)?.[1]),
  );
}

test.for(["has its reply", "left"])(
  "a call whose lease ended meanwhile makes no debt, when its consumer %s before it is written",
  async (how, { app }) => {
    const held = Promise.withResolvers<void>();
    await using upstream = await startUpstream(
      (_request, response) => void held.promise.then(() => response.end("ok")),
    );
    const delivery = how === "left" ? DeliveryMode.DURABLE : DeliveryMode.ASYNC;
    const settings = { delivery };
    const { raw, consumer, api } = await setUp(app, upstream.url, {
      callNanos: 30n * price,
      settings,
    });
    const [cut = 0, lost = 0] = await unpaid(app);
    const sending = request(raw()).on("error", () => {});
    const reply = once(sending, "response");
    reply.catch(() => {});
    sending.end();
    await until(() => upstream.requests.length === 1);

    // As if its process had stood still: the lease is drained and goes back, and is spent elsewhere.
    await asSuperuser(app, async (client) => {
      await client.query(
        `update credit_leases set state = 'draining', fence = (select position from journal_head)
         where account_id = $1`,
        [consumer.accountId],
      );
    });
    const credits = app.client(CreditService, (await app.admin()).token);
    const { accountId } = consumer;
    const amountNanos = -50n * price;
    const adjust = () => credits.adjustCredits({ accountId, amountNanos, note: "x" });
    await expect.poll(() => adjust().then(() => "taken", String)).toBe("taken");
    let hasReply = false;
    if (how === "left") {
      sending.destroy();
    } else {
      held.resolve();
      const { statusCode } = (await reply)[0];
      // The process may have heard of its lease's end before: then the reply waits, and is refused.
      expect([200, 402]).toContain(statusCode);
      hasReply = statusCode === 200;
    }

    const after = [cut + 1, lost + (hasReply ? 1 : 0)];
    await expect.poll(() => unpaid(app)).toEqual(after);
    await app.applied();
    const counted = await asSuperuser(app, (client) =>
      client.query("select from usage_events where api_id = $1 and charged_nanos > 0", [api.id]),
    );
    expect(counted.rowCount).toBe(0);
    held.resolve();
  },
);

/** The first three calls of a month are free, the others cost. */
const afterThree = {
  rule: { tierSpan: TierSpan.MONTH, tiers: [{ lastUnit: 3n }, { nanos: 30n * price }] },
};

/** An upstream that answers once it is told to. */
async function startHeld() {
  const held = Promise.withResolvers<void>();
  const upstream = await startUpstream(
    (_request, response) => void held.promise.then(() => response.end("ok")),
  );
  return Object.assign(upstream, { release: () => held.resolve() });
}

test("calls under way count for the tiers of a month: none more is free, or goes without credit", async ({
  app,
}) => {
  await using upstream = await startHeld();
  const { call, events } = await setUp(app, upstream.url, afterThree);

  // There is credit for one that is not free.
  const calls = Array.from({ length: 8 }, () => call());
  await until(() => upstream.requests.length >= 4);
  await expect.poll(() => Promise.race([...calls, "waiting"])).not.toBe("waiting");
  upstream.release();
  const statuses = (await Promise.all(calls)).map(({ status }) => status);

  expect(statuses.toSorted()).toEqual([200, 200, 200, 200, 402, 402, 402, 402]);
  expect((await events(4)).map(({ charged }) => charged).toSorted()).toEqual([
    0n,
    0n,
    0n,
    30n * price,
  ]);
});

test("calls that fail use nothing up, and those that are overtaken pay for where they end", async ({
  app,
}) => {
  const held = Promise.withResolvers<void>();
  await using upstream = await startUpstream((incoming, response) => {
    if (incoming.url === "/broken") {
      incoming.socket.destroy();
    } else {
      void (incoming.url === "/held" ? held.promise : Promise.resolve()).then(() =>
        response.end("ok"),
      );
    }
  });
  const { call, events } = await setUp(app, upstream.url, afterThree);
  const post = (rest: string) => call(rest, { method: "POST" });

  const overtaken = post("held");
  await until(() => upstream.requests.length === 1);
  const charges = [];
  for (const rest of ["broken", "x", "broken", "x", "x"]) {
    const response = await post(rest);
    await response.text();
    charges.push(response.headers.get("x-callora-charged-nanos"));
  }
  held.resolve();
  const last = await overtaken;

  expect(charges).toEqual(["0", "0", "0", "0", "0"]);
  expect(last.headers.get("x-callora-charged-nanos")).toBe(String(30n * price));
  expect((await events(6)).map(({ charged }) => charged)).toEqual([
    ...[0n, 0n, 0n, 0n, 0n],
    30n * price,
  ]);
});

test("calls that say no units move the tiers of a month for nobody", async ({ app }) => {
  await using upstream = await startUpstream((incoming, response) => {
    response.setHeader("x-pages", incoming.url === "/none" ? "0" : "1");
    response.end("ok");
  });
  const { call } = await setUp(app, upstream.url, {
    rule: {
      ...afterThree.rule,
      units: { from: { case: "responseHeader", value: "x-pages" } },
      unitsMax: 1n,
    },
  });

  const charges = [];
  for (const rest of ["none", "a", "none", "b", "none", "c", "d"]) {
    const response = await call(rest);
    charges.push(response.headers.get("x-callora-charged-nanos"));
  }

  expect(charges).toEqual(["0", "0", "0", "0", "0", "0", String(30n * price)]);
});
