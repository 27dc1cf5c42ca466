import { randomUUID } from "node:crypto";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect } from "vitest";
import { AccountService, MemberRole } from "../gen/callora/accounts/v1/account_service_pb.ts";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { DepositService } from "../gen/callora/credits/v1/deposit_service_pb.ts";
import { Mode } from "../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { CorrectionService } from "../gen/callora/metering/v1/correction_service_pb.ts";
import { Aggregation, MeterService } from "../gen/callora/metering/v1/meter_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { SettlementService } from "../gen/callora/settlement/v1/settlement_service_pb.ts";
import { deleteOldAnswers } from "../src/db/once.ts";
import { must, type startTestApp } from "./support/app.ts";
import { buyCredit, leaveDeposit } from "./support/payments.ts";
import { newPerson, type SignedIn } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeSession } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Call = (how: { requestId?: string; header?: string; other?: boolean }) => Promise<object>;

/** What can be retried. */
interface Retryable {
  role: "developer" | "super_admin";
  /** Prepare a call that can be made again and again, as somebody. */
  prepare(app: App, me: SignedIn): Promise<Call>;
  /** How many effects it had so far, for anybody. */
  effects: string;
}

const options = (header?: string) => ({
  headers: header === undefined ? {} : { "idempotency-key": header },
});

const retryables: Readonly<Record<string, Retryable>> = {
  CreateKey: {
    role: "developer",
    effects: "select count(*) from api_keys",
    async prepare(app, me) {
      const api = await app.api(await newPerson(app.db, "developer"));
      return ({ requestId = "", header, other }) =>
        app
          .client(KeyService, me.token)
          .createKey(
            { requestId, apiId: api.id, mode: other ? Mode.TEST : Mode.LIVE },
            options(header),
          );
    },
  },
  CreateApi: {
    role: "developer",
    effects: "select count(*) from apis",
    async prepare(app, me) {
      const draft = { name: "x", slug: `a${randomUUID()}`, upstreamUrl: "http://127.0.0.1:9" };
      return ({ requestId = "", header, other }) =>
        app
          .client(CatalogService, me.token)
          .createApi({ requestId, ...draft, callNanos: other ? 2n : 1n }, options(header));
    },
  },
  CreateMeter: {
    role: "developer",
    effects: "select count(*) from meters",
    async prepare(app, me) {
      const draft = { slug: `a${randomUUID()}`, aggregation: Aggregation.SUM };
      return ({ requestId = "", header, other }) =>
        app
          .client(MeterService, me.token)
          .createMeter({ requestId, ...draft, valuePath: other ? "$.b" : "$.a" }, options(header));
    },
  },
  CreateToken: {
    role: "developer",
    effects: "select count(*) from api_tokens where name like 'retried%'",
    async prepare(app, me) {
      const session = await makeSession(app.db, me);
      return async ({ requestId = "", header, other }) => {
        const request = { requestId, name: other ? "retried, other" : "retried" };
        const { token: secret, ...rest } = await app
          .client(AuthService, session.token)
          .createToken(request, options(header));
        return { ...rest, secret };
      };
    },
  },
  CreateInvitation: {
    role: "developer",
    effects: "select count(*) from invitations",
    async prepare(app, me) {
      const email = `${randomUUID()}@x.example`;
      return ({ requestId = "", header, other }) =>
        app.client(AccountService, me.token).createInvitation(
          {
            requestId,
            email,
            role: other ? MemberRole.ADMIN : MemberRole.VIEWER,
          },
          options(header),
        );
    },
  },
  GrantCredits: {
    role: "super_admin",
    effects: "select count(*) from ledger_transfers where credit_kind = 'consumer'",
    async prepare(app, me) {
      const { accountId } = await newPerson(app.db);
      return ({ requestId = "", header, other }) =>
        app
          .client(CreditService, me.token)
          .grantCredits({ requestId, accountId, amountNanos: other ? 2n : 1n }, options(header));
    },
  },
  AdjustCredits: {
    role: "super_admin",
    effects: "select count(*) from ledger_transfers where credit_kind = 'consumer'",
    async prepare(app, me) {
      const { accountId } = await newPerson(app.db);
      return ({ requestId = "", header, other }) =>
        app
          .client(CreditService, me.token)
          .adjustCredits(
            { requestId, accountId, amountNanos: other ? 2n : 1n, note: "x" },
            options(header),
          );
    },
  },
  GrantTestCredits: {
    role: "developer",
    effects: "select count(*) from credit_grants where kind = 'test'",
    async prepare(app, me) {
      return ({ requestId = "", header, other }) =>
        app
          .client(CreditService, me.token)
          .grantTestCredits({ requestId, amountNanos: other ? 2n : 1n }, options(header));
    },
  },
  PurchaseCredits: {
    role: "developer",
    effects: "select count(*) from credit_purchases",
    async prepare(app, me) {
      return ({ requestId = "", header, other }) =>
        app
          .client(CreditService, me.token)
          .purchaseCredits({ requestId, planId: other ? "pro" : "starter" }, options(header));
    },
  },
  RefundPurchase: {
    role: "super_admin",
    effects: "select count(*) from credit_returns",
    async prepare(app, me) {
      const purchaseId = await buyCredit(app, await newPerson(app.db));
      return ({ requestId = "", header, other }) =>
        app
          .client(CreditService, me.token)
          .refundPurchase(
            { requestId, purchaseId, amountNanos: other ? 200n : 100n, note: "x" },
            options(header),
          );
    },
  },
  AssignDeposit: {
    role: "super_admin",
    effects: "select count(*) from payment_events where assigned_at is not null",
    async prepare(app, me) {
      const { accountId } = await newPerson(app.db);
      const [depositId, otherId] = [await leaveDeposit(app), await leaveDeposit(app)];
      return ({ requestId = "", header, other }) =>
        app
          .client(DepositService, me.token)
          .assignDeposit(
            { requestId, depositId: other ? otherId : depositId, accountId, note: "x" },
            options(header),
          );
    },
  },
  VoidEvent: {
    role: "super_admin",
    effects: deedsOf("usage.void"),
    async prepare(app, me) {
      const event = await recordEvent(app, me);
      return ({ requestId = "", header, other }) =>
        app
          .client(CorrectionService, me.token)
          .voidEvent({ requestId, ...event, reason: other ? "y" : "x" }, options(header));
    },
  },
  AdjustEvent: {
    role: "super_admin",
    effects: deedsOf("usage.adjust"),
    async prepare(app, me) {
      const event = await recordEvent(app, me);
      return ({ requestId = "", header, other }) =>
        app
          .client(CorrectionService, me.token)
          .adjustEvent(
            { requestId, ...event, chargedNanos: other ? 2n : 1n, reason: "x" },
            options(header),
          );
    },
  },
  RunSettlement: {
    role: "super_admin",
    effects: "select count(*) from settlements",
    async prepare(app, me) {
      return ({ requestId = "", header, other }) =>
        app
          .client(SettlementService, me.token)
          .runSettlement({ requestId, minimumNanos: other ? 2n : 1n }, options(header));
    },
  },
};

function deedsOf(action: string): string {
  return `select count(*) from audit_logs where action = '${action}' and outcome = 'done'`;
}

/** An applied event of somebody. */
async function recordEvent(app: App, { token }: SignedIn) {
  const api = await app.api(await newPerson(app.db, "developer"));
  const { accountId } = await newPerson(app.db);
  const event = { accountId, source: "urn:retried", id: randomUUID() };
  const metering = app.client(MeteringService, token);
  await metering.recordUsage({ events: [{ ...event, apiId: api.id }] });
  await app.applied();
  return event;
}

const rows = Object.entries(retryables).map(([name, row]) => ({ name, ...row }));

test.for(rows)(
  "$name gives a retry the first answer again, without a secret",
  async ({ prepare, effects, role }, { app }) => {
    const call = await prepare(app, await newPerson(app.db, role));
    const key = randomUUID();
    const before = await count(app, effects);

    const first = await call({ requestId: key });
    const again = await call({ requestId: key });

    expect(again).toEqual("secret" in first ? { ...first, secret: "" } : first);
    expect(await count(app, effects)).toBe(before + 1);
  },
);

test.for(rows)(
  "$name takes the Idempotency-Key header as well",
  async ({ prepare, effects, role }, { app }) => {
    const call = await prepare(app, await newPerson(app.db, role));
    const before = await count(app, effects);

    const first = await call({ header: "my.key:1" });
    const again = await call({ header: "my.key:1" });

    expect(again).toEqual("secret" in first ? { ...first, secret: "" } : first);
    expect(await count(app, effects)).toBe(before + 1);
  },
);

test.for(rows)(
  "$name refuses a key that was used for something else",
  async ({ prepare, effects, role }, { app }) => {
    const call = await prepare(app, await newPerson(app.db, role));
    await call({ header: "k" });
    const before = await count(app, effects);

    const outcome = call({ header: "k", other: true });

    await expect(outcome).rejects.toMatchObject({
      code: Code.InvalidArgument,
      details: expect.arrayContaining([
        expect.objectContaining({
          debug: expect.objectContaining({ reason: "IDEMPOTENCY_KEY_REUSED" }),
        }),
      ]),
    });
    expect(await count(app, effects)).toBe(before);
  },
);

test.for(rows)(
  "20 equal calls of $name at once have one effect, and one answer",
  async ({ prepare, effects, role }, { app }) => {
    const me = await newPerson(app.db, role);
    const call = await prepare(app, me);
    const before = await count(app, effects);

    const answers = await Promise.all(Array.from({ length: 20 }, () => call({ header: "once" })));

    expect(await count(app, effects)).toBe(before + 1);
    const secrets = answers.flatMap((answer) => ("secret" in answer ? [answer.secret] : []));
    expect(secrets.filter((secret) => secret !== "")).toHaveLength(secrets.length > 0 ? 1 : 0);
    expect(new Set(answers.map((answer) => toText({ ...answer, secret: "" }))).size).toBe(1);
    const records = `select count(*) from audit_logs where actor_user_id = '${me.userId}' and outcome = 'done'`;
    expect(await count(app, records)).toBe(1);
  },
);

test.for(rows)(
  "$name keeps the keys of accounts apart",
  async ({ prepare, effects, role }, { app }) => {
    const [mine, theirs] = [await newPerson(app.db, role), await newPerson(app.db, role)];
    const before = await count(app, effects);

    for (const me of [mine, theirs]) {
      const answer = await (await prepare(app, me))({ header: "shared" });
      expect(answer).toBeDefined();
    }

    expect(await count(app, effects)).toBe(before + 2);
  },
);

test("a call that failed may be made again under its key", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const catalog = app.client(CatalogService, developer.token);
  const draft = { name: "x", slug: `a${randomUUID()}`, upstreamUrl: "http://127.0.0.1:9" };
  const apiId = must((await catalog.createApi(draft)).api).id;
  const keys = app.client(KeyService, (await newPerson(app.db)).token);
  const request = { apiId, requestId: randomUUID() };
  await expect(keys.createKey(request)).rejects.toMatchObject({ code: Code.NotFound });
  await catalog.publishApi({ apiId });

  const { secret } = await keys.createKey(request);

  expect(secret).toMatch(/^ck_live_/);
});

test("one key may be used for several methods", async ({ app }) => {
  const me = await newPerson(app.db, "super_admin");

  for (const { prepare } of rows) {
    const call = await prepare(app, me);
    await expect(call({ header: "same" })).resolves.toBeDefined();
  }
});

test("after a day a key is free again, and not before", async ({ app }) => {
  const { prepare, effects } = must(retryables.GrantCredits);
  const call = await prepare(app, await newPerson(app.db, "super_admin"));
  const before = await count(app, effects);
  const hours = (number: number) => new Date(Date.now() + number * 3_600_000);
  await call({ header: "daily" });

  await app.db.systemTransaction((tx) => deleteOldAnswers(tx, hours(23)));
  await call({ header: "daily" });
  expect(await count(app, effects)).toBe(before + 1);
  await app.db.systemTransaction((tx) => deleteOldAnswers(tx, hours(25)));
  await call({ header: "daily" });

  expect(await count(app, effects)).toBe(before + 2);
});

test("no secret is kept with the answers", async ({ app }) => {
  const call = await must(retryables.CreateKey).prepare(app, await newPerson(app.db));
  const { secret } = (await call({ header: "secret" })) as { secret: string };

  const kept = await asSuperuser(app, async (client) => {
    const { rows: answers } = await client.query("select response from idempotency_keys");
    return answers.map(({ response }) => String(response));
  });

  expect(kept.length).toBeGreaterThan(0);
  expect(kept.filter((response) => response.includes(secret))).toEqual([]);
});

function count(app: App, query: string): Promise<number> {
  return asSuperuser(app, async (client) => Number((await client.query(query)).rows[0].count));
}

function toText(answer: object): string {
  return JSON.stringify(answer, (_, value) => (typeof value === "bigint" ? String(value) : value));
}

test("a retry of a call that is still running is ABORTED after a while, and may come again", async ({
  app,
}) => {
  const me = await newPerson(app.db, "developer");
  const requestId = randomUUID();
  const draft = { name: "x", slug: `a${randomUUID()}`, upstreamUrl: "http://127.0.0.1:9" };
  const create = () =>
    app.client(CatalogService, me.token).createApi({ requestId, ...draft, callNanos: 1n });

  await asSuperuser(app, async (client) => {
    await client.query("begin");
    await client.query(
      `insert into idempotency_keys (account_id, method, key, request_hash, response)
       values ($1, 'callora.catalog.v1.CatalogService/CreateApi', $2, '', '')`,
      [me.accountId, requestId],
    );

    const error = await create().catch(ConnectError.from);

    expect(error).toMatchObject({ code: Code.Aborted });
    expect(JSON.stringify(error)).toContain("IDEMPOTENCY_KEY_IN_FLIGHT");
    await client.query("rollback");
  });
  await expect(create()).resolves.toMatchObject({ api: { slug: draft.slug } });
});
