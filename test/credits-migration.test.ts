import { timestampDate } from "@bufbuild/protobuf/wkt";
import { expect } from "vitest";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { DepositService } from "../gen/callora/credits/v1/deposit_service_pb.ts";
import { CorrectionService } from "../gen/callora/metering/v1/correction_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { migrateDown, migrateUp } from "../src/db/migrate.ts";
import { platformAccountId } from "../src/ledger/store.ts";
import { must, startTestApp } from "./support/app.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

const directory = "migrations";

test("grants and bills of before are taken over: each sum is the one that was shown", async () => {
  await using app = await startTestApp();
  const { token } = await app.admin();
  const metering = app.client(MeteringService, token);
  const [me, developer] = [await app.person(), await app.person("DEVELOPER")];
  const { accountId } = me;
  const { id: apiId } = await app.api(developer, { callNanos: 100n });
  for (const amountNanos of [250n, 100n, 400n]) {
    await app.grant(accountId, amountNanos);
  }
  const events = ["a", "b", "c"].map((id) => ({ source: "urn:before", id, accountId, apiId }));
  await metering.recordUsage({ events });
  await app.applied();
  const corrected = { accountId, source: "urn:before", id: "a", chargedNanos: 40n, reason: "x" };
  await app.client(CorrectionService, token).adjustEvent(corrected);
  await app.applied();
  const { owner } = app.urls;
  const credits = app.client(CreditService, me.token);
  const shown = async () => {
    const { availableNanos, grantedNanos, chargedNanos } = must(
      (await credits.getBalance({})).balance,
    );
    const { transactions } = await credits.listTransactions({});
    return { availableNanos, grantedNanos, chargedNanos, transactions };
  };
  const before = await shown();

  await migrateDown(owner, { directory, to: 22 });
  await migrateUp(owner, { directory });

  expect(await shown()).toEqual(before);
  expect(before.transactions).toHaveLength(5);
  const found = await asSuperuser(app, async (client) => {
    const list = async (query: string) => (await client.query(query, [accountId])).rows;
    return {
      grants: await list(
        `select amount_nanos::int as amount, burned_nanos::int as burned, state
         from credit_grants where account_id = $1 order by id`,
      ),
      burns: await list(
        `select from_nanos::int as begin, to_nanos::int as end from grant_burns
         where account_id = $1 order by from_nanos`,
      ),
      lines: await list(
        `select calls::int, units::int, charged_nanos::int as charged,
           corrected_nanos::int as corrected, price_version as version
         from billing_lines where account_id = $1`,
      ),
      baseline: await list(
        "select mode, charged_nanos::int as charged from billing_baseline where $1 <> '' order by mode",
      ),
    };
  });
  expect(found).toEqual({
    grants: [
      { amount: 250, burned: 250, state: "closed" },
      { amount: 100, burned: 50, state: "open" },
      { amount: 400, burned: 0, state: "open" },
    ],
    burns: [
      { begin: 0, end: 250 },
      { begin: 250, end: 300 },
    ],
    lines: [{ calls: 3, units: 3, charged: 300, corrected: -60, version: 1 }],
    baseline: [
      { mode: "live", charged: 0 },
      { mode: "test", charged: 0 },
    ],
  });
});

test("deposits of before that name no purchase can be assigned", async () => {
  await using app = await startTestApp();
  const { token } = await app.admin();
  const { accountId } = await app.person();
  const deposits = app.client(DepositService, token);
  const { owner } = app.urls;

  await migrateDown(owner, { directory, to: 24 });
  await asSuperuser(app, (client) =>
    client.query(
      `insert into payment_events (source, event_id, amount_nanos, detail, created_at)
       values ('stellar', '1', 500, 'hash from G', '2026-01-02')`,
    ),
  );
  await migrateUp(owner, { directory });
  const { deposits: listed } = await deposits.listUnmatchedDeposits({});

  expect(listed).toMatchObject([{ amountNanos: 500n, detail: "hash from G" }]);
  const { id: depositId, payTime } = must(listed[0]);
  expect(timestampDate(must(payTime))).toEqual(new Date("2026-01-02"));
  await asSuperuser(app, (client) =>
    client.query(
      `insert into ledger_accounts (account_id, kind, mode, credits_nanos)
       values ($1, 'treasury_equity', 'live', 500)
       on conflict (account_id, kind, mode)
       do update set credits_nanos = ledger_accounts.credits_nanos + 500`,
      [platformAccountId],
    ),
  );
  const { balance } = await deposits.assignDeposit({ depositId, accountId, note: "x" });
  expect(balance).toMatchObject({ availableNanos: 500n });
});
