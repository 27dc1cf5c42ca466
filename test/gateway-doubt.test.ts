import { expect } from "vitest";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { type startTestApp, until } from "./support/app.ts";
import { paid, price, reasonOf, setUp } from "./support/calls.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** Let no append say whether it was one, as a connection that is lost amid its commit does. Ends with the scope. */
async function doubt(app: App) {
  const run = (text: string) => asSuperuser(app, (client) => client.query(text));
  await run(`
    create sequence doubts;
    create function doubt() returns trigger language plpgsql security definer as $$
    begin
      perform nextval('doubts');
      raise exception 'nobody knows' using errcode = '40003';
    end $$;
    create trigger doubt before insert on usage_journal for each statement execute function doubt()
  `);
  let isOver = false;
  const end = async () => {
    if (!isOver) {
      isOver = true;
      await run("drop trigger doubt on usage_journal; drop function doubt(); drop sequence doubts");
    }
  };
  return {
    /** Whether an append was tried. Sequences forget nothing. */
    isFelt: async () => (await run("select is_called from doubts")).rows[0].is_called as boolean,
    end,
    [Symbol.asyncDispose]: end,
  };
}

const chargedOf = ({ headers }: Response) => headers.get("x-callora-charged-nanos");

test("a call whose event may be written waits longer than others, and is charged once", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call, events } = await setUp(app, upstream.url);
  await (await call()).text();
  await events();

  await using away = await doubt(app);
  const begin = performance.now();
  const reply = call();
  // What is certainly not written is given up after ten seconds.
  await until(() => performance.now() - begin > 14_000, 20_000);
  await away.end();
  const response = await reply;

  expect([response.status, await response.text()]).toEqual([200, '{"ok":true}']);
  expect(chargedOf(response)).toBe(String(price));
  expect(await events(2)).toEqual([...paid(200), ...paid(200)]);
});

test("when the database never says so, the call's charge is unknown, and its credit comes back", {
  timeout: 120_000,
}, async ({ app }) => {
  await using upstream = await startUpstream();
  const { call, consumer, events } = await setUp(app, upstream.url);
  await (await call()).text();
  await events();

  await using away = await doubt(app);
  const begin = performance.now();
  const response = await call();
  const waitedMs = performance.now() - begin;
  await away.end();

  expect([response.status, await reasonOf(response)]).toEqual([503, "CHARGE_UNKNOWN"]);
  expect(response.headers.get("x-request-id")).toMatch(/./);
  expect([chargedOf(response), response.headers.get("x-callora-price-version")]).toEqual([
    null,
    "1",
  ]);
  expect(waitedMs).toBeGreaterThan(25_000);
  expect(waitedMs).toBeLessThan(45_000);
  // Nothing was written here: what was set aside for it comes back with the lease.
  const credits = app.client(CreditService, consumer.token);
  const read = async () => (await credits.getBalance({})).balance;
  await expect
    .poll(read, { timeout: 40_000, interval: 1_000 })
    .toMatchObject({ availableNanos: 49n * price, reservedNanos: 0n });
  expect(await events()).toEqual(paid(200));
});

test("so it is when the lease has ended meanwhile, and nothing else can pay", async ({ app }) => {
  const held = Promise.withResolvers<void>();
  await using upstream = await startUpstream(
    (_request, response) => void held.promise.then(() => response.end("ok")),
  );
  const { call, consumer, events } = await setUp(app, upstream.url, { callNanos: 30n * price });
  const reply = call();
  await until(() => upstream.requests.length === 1);
  const { accountId } = consumer;

  await using away = await doubt(app);
  held.resolve();
  await until(away.isFelt);
  // As if the process had stood still: its lease goes back, and is taken elsewhere before it asks for another.
  await asSuperuser(app, async (client) => {
    await client.query("revoke insert on credit_leases from callora_worker");
    await client.query(
      `update credit_leases set state = 'draining', fence = (select position from journal_head)
       where account_id = $1`,
      [accountId],
    );
  });
  const admin = app.client(CreditService, (await app.admin()).token);
  const amountNanos = -50n * price;
  const take = () => admin.adjustCredits({ accountId, amountNanos, note: "x" });
  await expect.poll(() => take().then(() => "taken", String)).toBe("taken");
  await asSuperuser(app, (client) =>
    client.query("grant insert on credit_leases to callora_worker"),
  );
  await away.end();
  const response = await reply;

  expect([response.status, await reasonOf(response)]).toEqual([503, "CHARGE_UNKNOWN"]);
  expect(chargedOf(response)).toBeNull();
  await app.applied();
  expect(await events(0)).toEqual([]);
});
