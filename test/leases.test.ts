import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test as plain } from "vitest";
import { createApp } from "../src/app.ts";
import { readConfig } from "../src/config.ts";
import { closeDrainedLeases, drainLeases } from "../src/credits/lease-end.ts";
import { acquireLease, type LeasedCredit } from "../src/credits/leases.ts";
import { createLogger } from "../src/log.ts";
import { decodeRow, encodeRow } from "../src/metering/codec.ts";
import { createJournal } from "../src/metering/journal.ts";
import { projectShard } from "../src/metering/projector.ts";
import { createMetrics } from "../src/metrics.ts";
import { openDatabase } from "../src/server.ts";
import { must, openTestTrust, type startTestApp, testSealer, until } from "./support/app.ts";
import {
  grant,
  holdShard,
  newAccountId,
  openBooks,
  projectOnce,
  roundOptions,
  seeded,
  usage,
} from "./support/books.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const price = 1_000n;

/** A consumer with keys for APIs of one price: a key may call a hundred times at once. */
async function setUp(app: App, { upstreamUrl, calls }: { upstreamUrl: string; calls: bigint }) {
  const developer = await newPerson(app.db, "developer");
  const consumer = await newPerson(app.db);
  const apis = await Promise.all(
    Array.from({ length: 3 }, () => app.api(developer, { upstreamUrl, callNanos: price })),
  );
  const keys = [];
  for (const api of apis) {
    keys.push({ slug: api.slug, secret: await app.key(consumer, api.id) });
  }
  await grant(app.db, consumer.accountId, calls * price);
  return { consumer, keys };
}

async function callAll(
  urls: string[],
  keys: { slug: string; secret: string }[],
  count: number,
): Promise<Map<string, number>> {
  const replies = await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const { slug, secret } = must(keys[index % keys.length]);
      const url = must(urls[index % urls.length]);
      const response = await fetch(`${url}/v1/call/${slug}/x`, {
        headers: { "x-api-key": secret, "x-request-id": "the-same" },
      });
      const body = await response.text();
      return response.status === 200
        ? "200"
        : `${response.status} ${JSON.parse(body).reason ?? body}`;
    }),
  );
  const counts = new Map<string, number>();
  for (const reply of replies) {
    counts.set(reply, (counts.get(reply) ?? 0) + 1);
  }
  return counts;
}

test("of 200 calls at once, exactly those that the balance covers are served", async ({ app }) => {
  await using upstream = await startUpstream();
  const { consumer, keys } = await setUp(app, { upstreamUrl: upstream.url, calls: 33n });

  const replies = await callAll([app.url], keys, 200);

  // Each tells what was reserved at its moment: calls that were served reserve less and less.
  const refused = [...replies].filter(([reply]) => reply !== "200");
  expect(replies.get("200")).toBe(33);
  expect(refused.reduce((sum, [, count]) => sum + count, 0)).toBe(167);
  for (const [reply] of refused) {
    expect(reply).toMatch(/^402 .*"CREDIT_EXHAUSTED"/);
  }
  expect(upstream.requests).toHaveLength(33);
  await app.applied();
  expect(await balances(app, consumer.accountId)).toMatchObject({
    consumer: 0n,
    lease_escrow: 0n,
  });
});

test("two processes together never serve more than the balance covers", async ({ app }) => {
  await using upstream = await startUpstream();
  await using second = await startSecond(app);
  const { consumer, keys } = await setUp(app, { upstreamUrl: upstream.url, calls: 33n });

  const replies = await callAll([app.url, second.url], keys, 200);
  await app.applied();

  expect(replies.get("200")).toBe(33);
  expect(upstream.requests).toHaveLength(33);
  const { consumer: left = 0n, consumer_receivable: owed = 0n } = await balances(
    app,
    consumer.accountId,
  );
  expect([left, owed]).toEqual([0n, 0n]);
});

test("a process that stops gives back what it did not spend", async ({ app }) => {
  await using upstream = await startUpstream();
  const { consumer, keys } = await setUp(app, { upstreamUrl: upstream.url, calls: 33n });
  {
    await using second = await startSecond(app);
    expect((await callAll([second.url], keys, 5)).get("200")).toBe(5);
    expect(await balances(app, consumer.accountId)).not.toMatchObject({ consumer: 28n * price });
  }
  // The other process applies the shard, and finds by itself that leases have ended.
  await until(async () => (await balances(app, consumer.accountId)).lease_escrow === 0n);

  expect(await balances(app, consumer.accountId)).toMatchObject({ consumer: 28n * price });
});

async function balances(app: App, accountId: string): Promise<Record<string, bigint>> {
  const { rows } = await asSuperuser(app, (client) =>
    client.query(
      "select kind, credits_nanos - debits_nanos as held from ledger_accounts where account_id = $1",
      [accountId],
    ),
  );
  return Object.fromEntries(rows.map(({ kind, held }) => [kind, BigInt(held)]));
}

/** Another server on the same database. */
async function startSecond({ urls, network }: App) {
  const directory = await mkdtemp(join(tmpdir(), "callora-second-"));
  const db = await openDatabase(urls);
  const trust = await openTestTrust(db, urls);
  const app = createApp({
    config: readConfig({ PORT: "0", CALLORA_DATA_DIR: directory }),
    secretKey: "a secret key of a test, long enough",
    sealer: testSealer,
    db,
    trust,
    network,
    log: createLogger({ level: "debug", stream: { write: () => {} } }),
    metrics: createMetrics(),
    now: () => new Date(),
    version: "0.0.0-test",
    ownPorts: [],
  });
  const { port } = await app.listen({ host: "127.0.0.1", port: 0 });
  return {
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      await app.close();
      await trust.close();
      await db.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

describe("a lease", () => {
  async function lease(
    { db }: Books,
    { account, calls, holder = "h", leaseMs = 60_000 }: LeaseWanted,
  ): Promise<LeasedCredit> {
    const wanted = {
      accountId: account,
      mode: "live",
      holder,
      wantNanos: calls * price,
      leastNanos: calls * price,
      shard: 0,
      leaseMs,
    } as const;
    const outcome = await db.systemTransaction((tx) => acquireLease(tx, wanted, new Date()));
    if (!("lease" in outcome)) {
      throw new Error(`no lease: ${outcome.availableNanos}`);
    }
    return outcome.lease;
  }

  const drain = ({ db }: Books, holder: string | null = "h") =>
    db.systemTransaction((tx) =>
      drainLeases(tx, holder === null ? { holder } : { holder, leaseIds: null }),
    );
  const event = (account: string, id: string | null, more = {}) =>
    usage({ account, developer, charged: String(price), lease: id, ...more });
  const developer = newAccountId(0);

  plain("of a dead holder goes back once its events are applied, and not before", async () => {
    await using books = await openBooks();
    const account = newAccountId(0);
    await books.grant(account, 10n * price);
    const { id } = await lease(books, { account, calls: 10n });
    await books.journal.append([event(account, id), event(account, id)]);
    const close = (position: bigint) =>
      books.db.systemTransaction((tx) =>
        closeDrainedLeases(tx, { shard: 0, position }, new Date()),
      );

    expect(await drain(books, null)).toBe(0);
    await expire(books, id);
    expect(await drain(books, null)).toBe(1);
    expect(await close(0n)).toBe(0);
    expect(await books.held(account, "consumer")).toBe(0n);
    expect(await books.held(account, "lease_escrow")).toBe(10n * price);

    await projectOnce(books.db, 0);
    expect(await books.held(account, "lease_escrow")).toBe(8n * price);
    expect(await close(1n)).toBe(1);
    expect(await close(1n)).toBe(0);
    expect(await books.held(account, "consumer")).toBe(8n * price);
    expect(await books.held(account, "lease_escrow")).toBe(0n);
  });

  plain("is returned in its own transaction while events keep coming", async () => {
    await using books = await openBooks();
    const account = newAccountId(0);
    await books.grant(account, 4n * price);
    const { id } = await lease(books, { account, calls: 4n });
    await drain(books);
    await books.journal.append([event(account, null)]);

    await books.project();

    // What was returned first pays for the event that came without a lease.
    expect(await books.held(account, "consumer")).toBe(3n * price);
    expect(
      await books.sum(
        "select count(*) as sum from credit_leases where id = $1 and state = 'closed'",
        [id],
      ),
    ).toBe(1n);
  });

  plain("that is drained is no more charged: the balance is, and nothing is lost", async () => {
    await using books = await openBooks();
    const account = newAccountId(0);
    await books.grant(account, 5n * price);
    const { id } = await lease(books, { account, calls: 3n });
    await drain(books);

    await books.journal.append([event(account, id)]);
    await books.project();
    await books.journal.append([event(account, id)]);
    await books.project();

    expect(await books.held(account, "consumer")).toBe(3n * price);
    expect(await books.held(account, "lease_escrow")).toBe(0n);
    expect(await books.held(account, "consumer_receivable")).toBe(0n);
    expect(await books.sum("select count(*) as sum from usage_events")).toBe(2n);
  });

  plain("pays for nothing but its own account's events, and never more than it has", async () => {
    await using books = await openBooks();
    const [account, thief] = [newAccountId(0), newAccountId(0)];
    await books.grant(account, 3n * price);
    await books.grant(account, 3n * price, "test");
    const { id } = await lease(books, { account, calls: 2n });
    // As no server of ours writes it: the journal is believed, not trusted.
    await books.plant(
      encodeRow([
        event(thief, id),
        event(account, id, { mode: "test" }),
        event(account, "lea_unknown"),
        event(account, id),
        event(account, id),
        event(account, id, { charged: String(7n * price) }),
      ]),
    );

    await books.project();

    expect(await books.held(thief, "consumer_receivable")).toBe(-price);
    expect(await books.held(account, "lease_escrow")).toBe(0n);
    expect(await books.held(account, "consumer")).toBe(0n);
    expect(await books.held(account, "consumer_receivable")).toBe(-7n * price);
    expect(await books.held(account, "consumer", "test")).toBe(2n * price);
  });

  plain("of a holder that stops is drained before it expires, and others' are not", async () => {
    await using books = await openBooks();
    const account = newAccountId(0);
    await books.grant(account, 10n * price);
    await lease(books, { account, calls: 2n, holder: "stops" });
    await lease(books, { account, calls: 3n, holder: "stays" });

    await drain(books, "stops");
    await books.project();

    expect(await books.held(account, "consumer")).toBe(7n * price);
    expect(await books.held(account, "lease_escrow")).toBe(3n * price);
  });

  plain("is not held up by the projector: an append does not wait for it", async () => {
    await using books = await openBooks();
    const account = newAccountId(0);
    await books.grant(account, 10n * price);
    const { id } = await lease(books, { account, calls: 10n });
    await books.journal.append([event(account, id)]);
    const held = must(await holdShard(books.db, 0));

    const { promise: isApplied, resolve: applied } = Promise.withResolvers<void>();
    const { promise: isAppended, resolve: appended } = Promise.withResolvers<void>();

    const projecting = books.db.systemTransaction(async (tx) => {
      await projectShard(tx, held, roundOptions());
      applied();
      await isAppended;
    });
    await isApplied;
    const { position } = await books.journal.append([event(account, id)]);
    appended();
    await projecting;

    expect(position).toBe(2n);
  });

  const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

  plain(
    `never gives back what a later event spends, however appends and drains race (seed ${seed})`,
    { timeout: 120_000 },
    async () => {
      await using books = await openBooks();
      const random = seeded(seed);
      const other = await openDatabase(books.urls);
      const journals = [books.journal, createJournal({ db: other, onAppended: () => {} })];
      const pause = () =>
        new Promise<void>((resolve) => {
          setTimeout(resolve, random() * 6);
        });

      for (let round = 0; round < 60; round++) {
        const account = newAccountId(0);
        await books.grant(account, 8n * price);
        const { id } = await lease(books, { account, calls: 8n });
        const appends = Array.from({ length: 6 }, async (_, index) => {
          await pause();
          await must(journals[index % 2]).append([event(account, id)]);
        });
        const draining = pause().then(() => drain(books));
        const projecting = pause().then(() => books.project());
        await Promise.all([...appends, draining, projecting]);
        await books.project();

        const label = `seed ${seed}, round ${round}`;
        expect(await books.held(account, "consumer"), label).toBe(2n * price);
        expect(await books.held(account, "lease_escrow"), label).toBe(0n);
        expect(await namedAfterFence(books, id), label).toBe(0);
        // Nothing was owed at any time: a transfer would have stayed.
        expect(await owed(books, account), label).toBe(0n);
      }
      await other.close();
    },
  );
});

type Books = Awaited<ReturnType<typeof openBooks>>;

interface LeaseWanted {
  account: string;
  calls: bigint;
  holder?: string;
  leaseMs?: number;
}

/** Let a lease be over by the database's clock. */
async function expire({ superuser }: Books, leaseId: string): Promise<void> {
  await superuser.query("update credit_leases set expire_at = now() where id = $1", [leaseId]);
}

function owed(books: Books, account: string): Promise<bigint> {
  return books.sum(
    "select sum(amount_nanos) from ledger_transfers " +
      "where account_id = $1 and debit_kind = 'consumer_receivable'",
    [account],
  );
}

/** Events that name a lease although they stand after its last position. */
async function namedAfterFence(books: Books, leaseId: string): Promise<number> {
  const { rows } = await books.superuser.query(
    "select codec, body from usage_journal, credit_leases where id = $1 and position > fence",
    [leaseId],
  );
  return rows
    .flatMap((row) => decodeRow(row).entries)
    .filter((entry) => "lease" in entry && entry.lease === leaseId).length;
}
