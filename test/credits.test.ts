import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { AuditService } from "../gen/callora/audit/v1/audit_service_pb.ts";
import { CreditService, TransactionType } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { Mode } from "../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { SettlementService } from "../gen/callora/settlement/v1/settlement_service_pb.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

test("a new account has nothing", async ({ app }) => {
  const me = await newPerson(app.db);
  const credits = app.client(CreditService, me.token);

  expect((await credits.getBalance({})).balance).toMatchObject({
    availableNanos: 0n,
    reservedNanos: 0n,
    grantedNanos: 0n,
    chargedNanos: 0n,
  });
  expect((await credits.listTransactions({})).transactions).toEqual([]);
});

test("a grant is in the balance, the history and the audit log", async ({ app }) => {
  const [admin, me] = [await newPerson(app.db, "admin"), await newPerson(app.db)];
  const { accountId } = me;
  const grant = { accountId, amountNanos: 1_500_000_000n, note: "welcome" };

  const { balance } = await app.client(CreditService, admin.token).grantCredits(grant);

  const credits = app.client(CreditService, me.token);
  expect(balance).toMatchObject({ availableNanos: 1_500_000_000n, grantedNanos: 1_500_000_000n });
  expect((await credits.getBalance({})).balance).toEqual(balance);
  expect((await credits.listTransactions({})).transactions).toMatchObject([
    { type: TransactionType.GRANT, amountNanos: 1_500_000_000n },
  ]);
  const { logs } = await app
    .client(AuditService, admin.token)
    .listAuditLogs({ action: "credits.grant" });
  expect(logs).toMatchObject([{ resource: `account:${accountId}` }]);
  expect(logs[0]?.detail).toMatch(/1500000000 nano-USDC \(live\) welcome$/);
});

test("grants of five admins at once are all there, ten of each", async ({ app }) => {
  const me = await newPerson(app.db);
  const admins = await Promise.all([1, 2, 3, 4, 5].map(() => newPerson(app.db, "admin")));
  const grant = { accountId: me.accountId, amountNanos: 3n };

  // No more at once than there are connections: who has to wait for one is refused after two seconds.
  await Promise.all(
    admins.map(async ({ token }) => {
      for (let count = 0; count < 10; count++) {
        await app.client(CreditService, token).grantCredits(grant);
      }
    }),
  );

  const { balance } = await app.client(CreditService, me.token).getBalance({});
  expect(balance).toMatchObject({ availableNanos: 150n, grantedNanos: 150n });
  const { ok } = await app
    .client(SettlementService, (await newPerson(app.db, "admin")).token)
    .checkConservation({});
  expect(ok).toBe(true);
});

test("test credit is apart from real credit, and a test key sees only it", async ({ app }) => {
  const [admin, me] = [await newPerson(app.db, "admin"), await newPerson(app.db)];
  const api = await app.api(await newPerson(app.db, "developer"));
  const grants = app.client(CreditService, admin.token);
  const { accountId } = me;
  await grants.grantCredits({ accountId, amountNanos: 7n });
  await grants.grantCredits({ accountId, amountNanos: 40n, test: true });
  const keys = app.client(KeyService, me.token);
  const { secret } = await keys.createKey({ apiId: api.id, mode: Mode.TEST });

  const mine = await app.client(CreditService, me.token).getBalance({});
  const byTestKey = await app.client(CreditService, secret).getBalance({});

  expect(mine.balance).toMatchObject({ availableNanos: 7n, grantedNanos: 7n });
  expect(byTestKey.balance).toMatchObject({ availableNanos: 40n, grantedNanos: 40n });
});

test("the history pages through every grant, newest first", async ({ app }) => {
  const [admin, me] = [await newPerson(app.db, "admin"), await newPerson(app.db)];
  const grants = app.client(CreditService, admin.token);
  for (let amountNanos = 1n; amountNanos <= 7n; amountNanos++) {
    await grants.grantCredits({ accountId: me.accountId, amountNanos });
  }
  const credits = app.client(CreditService, me.token);

  const seen: bigint[] = [];
  let pageToken = "";
  do {
    const page = await credits.listTransactions({ pageSize: 3, pageToken });
    seen.push(...page.transactions.map(({ amountNanos }) => amountNanos));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");

  expect(seen).toEqual([7n, 6n, 5n, 4n, 3n, 2n, 1n]);
});

test.for([
  { amountNanos: 0n, what: "nothing" },
  { amountNanos: -1n, what: "less than nothing" },
  { amountNanos: 1_000_000_000_000_001n, what: "more than the limit" },
])("a grant of $what is refused", async ({ amountNanos }, { app }) => {
  const [admin, me] = [await newPerson(app.db, "admin"), await newPerson(app.db)];
  const grant = { accountId: me.accountId, amountNanos };

  const outcome = app.client(CreditService, admin.token).grantCredits(grant);

  await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
  await expect(outcome).rejects.toThrow("amount_nanos");
});

test("credit for an account that does not exist is refused", async ({ app }) => {
  const { token } = await newPerson(app.db, "admin");
  const grant = { accountId: "acc_vvvvvvvvvvvvvvvvvvvvvvvvvv", amountNanos: 1n };

  const outcome = app.client(CreditService, token).grantCredits(grant);

  await expect(outcome).rejects.toMatchObject({ code: Code.NotFound });
});
