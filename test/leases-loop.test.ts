import { expect } from "vitest";
import { acquireLease } from "../src/credits/leases.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { startTestApp, until } from "./support/app.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

/** The loop that does it rests for some seconds. */
const roundMsMax = 30_000;

test("leases of a process that crashed come back though other housekeeping fails", {
  timeout: 90_000,
}, async () => {
  await using app = await startTestApp();
  const { accountId } = await app.person();
  await app.grant(accountId, 10n);
  await asSuperuser(app, (client) =>
    client.query(`
      create function fail() returns trigger language plpgsql as $$ begin raise 'broken'; end $$;
      create trigger fail before delete on sessions for each statement execute function fail()`),
  );
  await until(() => app.lines.some((line) => line.includes("broken")), roundMsMax);
  const wanted = { accountId, mode: "live", leastNanos: 10n, wantNanos: 10n, leaseMs: 1 } as const;
  const shard = shardOf(accountId, shardCount);

  const outcome = await app.db.systemTransaction((tx) =>
    acquireLease(tx, { ...wanted, holder: "crashed", shard }, new Date()),
  );

  expect(outcome).toHaveProperty("lease");
  const held =
    "select credits_nanos - debits_nanos as nanos from ledger_accounts where account_id = $1 and kind = 'consumer'";
  await until(
    () =>
      asSuperuser(
        app,
        async (client) => (await client.query(held, [accountId])).rows[0].nanos === "10",
      ),
    roundMsMax,
  );
});
