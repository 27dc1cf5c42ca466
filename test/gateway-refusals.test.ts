import type { ServerResponse } from "node:http";
import { expect, test as plain } from "vitest";
import { DeliveryMode } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import {
  BudgetPeriod,
  BudgetScope,
  BudgetService,
} from "../gen/callora/credits/v1/budget_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { acquireLease } from "../src/credits/leases.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { must, startTestApp, until } from "./support/app.ts";
import { paid, price, readAll, reasonOf, send, setUp } from "./support/calls.ts";
import { metricOf } from "./support/metric.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

/** Of those that start a server or wait for a bound. */
const timeout = 60_000;

type App = Awaited<ReturnType<typeof startTestApp>>;

/** Take a right from the background work until the end of the scope: what needs it fails at once. */
async function without(app: App, right: string) {
  const change = (statement: string) => asSuperuser(app, (client) => client.query(statement));
  await change(`revoke ${right} from callora_worker`);
  let isBack = false;
  const giveBack = async () => {
    if (!isBack) {
      isBack = true;
      await change(`grant ${right} to callora_worker`);
    }
  };
  return { giveBack, [Symbol.asyncDispose]: giveBack };
}

/** A developers' server that keeps the calls of one path waiting, of which it may have sent a part. */
async function startHolding() {
  const held: ServerResponse[] = [];
  const upstream = await startUpstream((incoming, response) => {
    if (incoming.url === "/held" || incoming.url === "/begun") {
      held.push(response);
      if (incoming.url === "/begun") {
        response.write("a first part");
      }
    } else {
      response.end("ok");
    }
  });
  return Object.assign(upstream, {
    held,
    letGo() {
      for (const response of held) {
        response.end("ok");
      }
    },
  });
}

test.for(["held", "begun"])(
  "a reply that nothing pays for any more is not completed (%s)",
  { timeout },
  async (path, { app }) => {
    await using upstream = await startHolding();
    // One call takes all the credit that there is.
    const { raw, consumer, events } = await setUp(app, upstream.url, {
      callNanos: 50n * price,
    });
    const reply = send(raw({ path: `${raw().path}${path}` }));
    await until(() => upstream.held.length === 1);
    // As if the process had stood still: its lease ends, and another one takes what comes back.
    await asSuperuser(app, (client) =>
      client.query(
        `update credit_leases set state = 'draining', fence = (select position from journal_head)
         where account_id = $1 and state = 'active'`,
        [consumer.accountId],
      ),
    );
    await until(() => takeAll(app, consumer.accountId));

    upstream.letGo();
    const response = await reply;
    const body = await readAll(response).catch(() => null);

    if (path === "begun") {
      expect([response.statusCode, body]).toEqual([200, null]);
    } else {
      expect([402, 503]).toContain(response.statusCode);
      expect(String(body)).toMatch(/CREDIT_EXHAUSTED|CREDIT_UNKNOWN/);
    }
    await app.applied();
    expect((await events(0)).filter(({ charged }) => charged > 0n)).toEqual([]);
    expect(await metricOf(app.url, "callora_gateway_cut_unpaid_total")).toBeGreaterThan(0);
  },
);

test("a call waits while the journal takes nothing, and is served and charged once when it does again", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call, events } = await setUp(app, upstream.url);
  await using right = await without(app, "insert on usage_journal");

  const begin = performance.now();
  const reply = call();
  await until(() => performance.now() - begin > 3_500);
  await right.giveBack();

  expect((await reply).status).toBe(200);
  expect(await events()).toEqual(paid(200));
});

test("a call that cannot be written down in ten seconds is refused, and not charged", {
  timeout,
}, async ({ app }) => {
  await using upstream = await startUpstream();
  const { call, events } = await setUp(app, upstream.url);
  await using right = await without(app, "insert on usage_journal");

  const response = await call();
  await right.giveBack();
  await (await call()).text();

  expect([response.status, await reasonOf(response)]).toEqual([503, "JOURNAL_BUSY"]);
  expect(response.headers.has("retry-after")).toBe(true);
  await app.applied();
  expect(await events()).toEqual(paid(200));
});

test("a call for which nobody can say what credit there is is refused, and reaches nobody", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call, events } = await setUp(app, upstream.url);
  await using right = await without(app, "insert on credit_leases");

  const response = await call();
  await right.giveBack();

  expect([response.status, await reasonOf(response)]).toEqual([503, "CREDIT_UNKNOWN"]);
  expect(upstream.requests).toHaveLength(0);
  expect((await call()).status).toBe(200);
  expect(await events()).toEqual(paid(200));
});

plain("a process that runs as many calls as it may refuses more, free", { timeout }, async () => {
  await using app = await startTestApp({ GATEWAY_CALLS_MAX: "2" });
  await using upstream = await startHolding();
  const { call, events } = await setUp(app, upstream.url);
  const running = [call("held"), call("held")];
  await until(() => upstream.held.length === 2);

  const refused = await call();
  upstream.letGo();
  await Promise.all(running);

  expect([refused.status, await reasonOf(refused)]).toEqual([503, "GATEWAY_BUSY"]);
  expect((await call()).status).toBe(200);
  expect(await events(3)).toEqual([...paid(200), ...paid(200), ...paid(200)]);
});

plain(
  "past their bound, replies of an asynchronous API wait for their events, too",
  { timeout },
  async () => {
    await using app = await startTestApp({ GATEWAY_ASYNC_PENDING_MAX: "2" });
    await using upstream = await startUpstream();
    const settings = { delivery: DeliveryMode.ASYNC };
    const { call, events } = await setUp(app, upstream.url, { settings });
    await (await call()).text();
    await events(1);
    let answered = 0;

    const replies = await asSuperuser(app, async (client) => {
      await client.query("begin");
      await client.query("select from journal_head for update");
      const calls = Array.from({ length: 6 }, async () => {
        const { status } = await call();
        answered += 1;
        return status;
      });
      await until(() => upstream.requests.length === 7 && answered > 0, 20_000);
      // One more, when the oldest has been pending for a quarter of a second: the database is slow, or away.
      const begin = performance.now();
      await until(() => performance.now() - begin > 300);
      const isTold = async () =>
        (await metricOf(app.url, "callora_gateway_async_pending")) === answered;
      await until(isTold);
      const before = answered;
      const late = call().then(({ status }) => status);
      await until(() => upstream.requests.length === 8);
      await until(isTold);
      expect(answered).toBe(before);
      expect(answered).toBeLessThanOrEqual(2);
      await client.query("rollback");
      return Promise.all([...calls, late]);
    });

    expect(replies).toEqual(replies.map(() => 200));
    expect(await events(8)).toEqual(Array.from({ length: 8 }, () => paid(200)[0]));
    await until(async () => (await metricOf(app.url, "callora_gateway_async_pending")) === 0);
    expect(await metricOf(app.url, "callora_gateway_async_lost_total")).toBe(0);
  },
);

test("a budget bounds what is spent through the gateway, of all keys or of one, and is told", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call, api, consumer, events, path } = await setUp(app, upstream.url);
  const budgets = app.client(BudgetService, consumer.token);
  const keys = app.client(KeyService, consumer.token);
  const second = await keys.createKey({});
  const byOther = () => fetch(`${app.url}${path}`, { headers: { "x-api-key": second.secret } });
  const { keys: listed } = await keys.listKeys({ apiId: api.id });
  const put = (scope: BudgetScope, subjectId: string, calls: bigint) =>
    budgets.putBudget({
      scope,
      subjectId,
      period: BudgetPeriod.TOTAL,
      limitNanos: calls * price,
    });
  const { budget } = await put(BudgetScope.KEY, must(listed[0]).id, 2n);

  const replies = await Promise.all(Array.from({ length: 5 }, () => call()));
  const served = replies.filter(({ status }) => status === 200);
  const refused = must(replies.find(({ status }) => status === 402));
  const { details } = (await refused.json()) as {
    details: { reason: string; metadata: Record<string, string> }[];
  };

  expect([served.length, replies.length - served.length]).toEqual([2, 3]);
  expect(details[0]).toMatchObject({
    reason: "BUDGET_EXHAUSTED",
    metadata: { budget_id: must(budget).id, required_nanos: String(price) },
  });
  expect(upstream.requests).toHaveLength(2);
  expect((await byOther()).status).toBe(200);
  await put(BudgetScope.ACCOUNT, "", 1n);
  expect((await byOther()).status).toBe(200);
  expect([(await byOther()).status, (await call()).status]).toEqual([402, 402]);
  await put(BudgetScope.ACCOUNT, "", 10n);
  expect((await byOther()).status).toBe(200);
  await put(BudgetScope.KEY, must(listed[0]).id, 3n);
  expect([(await call()).status, (await call()).status]).toEqual([200, 402]);
  expect(await events(6)).toEqual(Array.from({ length: 6 }, () => paid(200)[0]));
  // What leases hold comes back: what is taken is then what was spent.
  await until(async () => {
    const { budgets: all } = await budgets.listBudgets({});
    const taken = all.map(({ scope, takenNanos }) => [scope, takenNanos]);
    return (
      taken.some(([scope, nanos]) => scope === BudgetScope.KEY && nanos === 3n * price) &&
      taken.some(([scope, nanos]) => scope === BudgetScope.ACCOUNT && nanos === 3n * price)
    );
  });
});

/** Take all credit of the account that the calls of a test have, as another process. False: it is not back yet. */
async function takeAll({ db }: App, accountId: string): Promise<boolean> {
  const nanos = 50n * price;
  const wanted = { accountId, mode: "live", leastNanos: nanos, wantNanos: nanos } as const;
  const shard = shardOf(accountId, shardCount);
  const taken = await db.systemTransaction((tx) =>
    acquireLease(tx, { ...wanted, holder: "another", shard }, new Date()),
  );
  return "lease" in taken;
}
