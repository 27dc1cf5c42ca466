import { randomUUID } from "node:crypto";
import { Registry } from "prom-client";
import { describe, expect, test } from "vitest";
import { drainLeases } from "../src/credits/lease-end.ts";
import { acquireLease } from "../src/credits/leases.ts";
import { encodeRow } from "../src/metering/codec.ts";
import { shardCount } from "../src/metering/entry.ts";
import { createProjectorMetrics } from "../src/metering/projector-metrics.ts";
import { startProjectors } from "../src/metering/projectors.ts";
import { must, until } from "./support/app.ts";
import {
  newAccountId,
  openBooks,
  projectAll,
  projectOnce,
  seeded,
  usage,
} from "./support/books.ts";
import {
  behind,
  Crash,
  failAfter,
  failInserts,
  firstDifference,
  isChained,
  outcome,
  reasons,
  receivedAt,
  refusePoison,
  repeats,
  totals,
} from "./support/projected.ts";

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

describe("what is refused for good", () => {
  test(`is kept aside wherever it stands, and stops nobody (seed ${seed})`, {
    timeout: 90_000,
  }, async () => {
    await using books = await openBooks();
    await refusePoison(books);
    const random = seeded(seed);
    const developer = newAccountId();
    const accounts = [newAccountId(0), newAccountId(0), newAccountId(1)];
    const expected = { good: 0n, bad: 0n, nanos: 0n };
    for (const account of accounts) {
      await books.grant(account, 20_000n);
    }

    for (let batch = 0; batch < 8; batch++) {
      const rate = must([0, 0.01, 0.3, 1][batch % 4]);
      const entries = Array.from({ length: 1 + Math.floor(random() * 120) }, () => {
        const isBad = random() < rate;
        expected[isBad ? "bad" : "good"] += 1n;
        expected.nanos += isBad ? 0n : 1_000n;
        const account = must(accounts[Math.floor(random() * accounts.length)]);
        return usage({ account, developer, endpoint: isBad ? "poison" : "GET /x" });
      });
      await books.journal.append(entries);
      if (random() < 0.5) {
        await books.project();
      }
    }
    await books.project();

    expect(await books.sum("select count(*) as sum from usage_events")).toBe(expected.good);
    expect(await totals(books), `seed ${seed}`).toEqual(Array(6).fill(expected.nanos));
    const { rows } = await books.superuser.query(
      "select reason, detail, state, count(*)::int as count, sum(charged_nanos)::text as nanos " +
        "from usage_quarantine group by reason, detail, state",
    );
    expect(rows, `seed ${seed}`).toEqual([
      {
        reason: "POISONED",
        detail: "the database refused it: 23514, constraint no_poison",
        state: "open",
        count: Number(expected.bad),
        nanos: String(expected.bad * 1_000n),
      },
    ]);
    expect(await behind(books)).toBe(0n);
    // What was tried and undone left no transfers, and no sum but the batch's own.
    expect(
      await books.sum(
        "select count(*) as sum from ledger_transfers where source_type = 'usage' and source_id !~ '^\\d:\\d+-\\d+$'",
      ),
    ).toBe(0n);
    await isChained(books);
  });

  test("may come again once it is not refused any more", async () => {
    await using books = await openBooks();
    await refusePoison(books);
    const [account, developer] = [newAccountId(), newAccountId()];
    const event = usage({ account, developer, endpoint: "poison" });
    await books.journal.append([event, usage({ account, developer })]);
    await books.project();
    await books.superuser.query("alter table usage_events drop constraint no_poison");

    await books.journal.append([event, event]);
    await books.project();

    expect(await totals(books)).toEqual(Array(6).fill(2_000n));
    expect(await books.sum("select sum(duplicates) from usage_events")).toBe(1n);
  });

  test("is told from what may pass: then nothing is kept aside, and all of it is tried again", async () => {
    await using books = await openBooks();
    const [account, developer] = [newAccountId(0), newAccountId()];
    await books.journal.append([usage({ account, developer }), usage({ account, developer })]);

    for (const state of ["40001", "40P01", "53100", "55P03", "57014", "42501"]) {
      await failInserts(books, state);
      await expect(projectOnce(books.db, 0), state).rejects.toThrow();
      expect(await behind(books)).toBe(1n);
    }
    await books.superuser.query("drop trigger fail on usage_rollups");
    await books.project();

    expect(await books.sum("select count(*) as sum from usage_quarantine")).toBe(0n);
    expect(await totals(books)).toEqual(Array(6).fill(2_000n));
  });

  test("is a promise that the price does not give", async () => {
    await using books = await openBooks();
    const [account, developer] = [newAccountId(), newAccountId()];
    const good = usage({ account, developer });

    await books.journal.append([good, { ...good, id: "dear", chargedNanos: 1_001n }]);
    await books.project();

    expect(await totals(books)).toEqual(Array(6).fill(1_000n));
    expect(await reasons(books)).toEqual(["POISONED"]);
  });

  test("is undone with all the rest when the round breaks off at any statement", {
    timeout: 90_000,
  }, async () => {
    await using books = await openBooks();
    await refusePoison(books);
    const [account, developer] = [newAccountId(0), newAccountId()];
    await books.grant(account, 3_500n);
    let done = 0n;

    // In larger steps: each round of a search takes some hundred statements.
    for (let step = 1; ; step += 7) {
      await books.journal.append([
        usage({ account, developer }),
        usage({ account, developer, endpoint: "poison" }),
        usage({ account, developer }),
      ]);
      const isFailed = await projectOnce(books.db, 0, { wrap: (tx) => failAfter(tx, step) }).then(
        () => false,
        (error: unknown) => {
          expect(error).toBeInstanceOf(Crash);
          return true;
        },
      );
      expect(await totals(books)).toEqual(Array(6).fill(isFailed ? done : done + 2_000n));
      await books.project();
      done += 2_000n;
      expect(await totals(books)).toEqual(Array(6).fill(done));
      if (!isFailed) {
        expect(step).toBeGreaterThan(50);
        break;
      }
    }
    expect(await books.sum("select count(*) as sum from usage_quarantine")).toBe(done / 2_000n);
  });
});

describe("what an account may owe", () => {
  test(`is decided event by event, however events are batched (seed ${seed})`, async () => {
    const random = seeded(seed);
    const [account, developer] = [newAccountId(0), newAccountId()];
    const entries = Array.from({ length: 150 }, (_, index) =>
      usage({
        account,
        developer,
        id: String(index < 20 ? index : Math.floor(random() * 140)),
        charged: String(1 + Math.floor(random() * 3_000)),
        feeBasisPoints: 333,
        mode: random() < 0.8 ? "live" : "test",
      }),
    );
    const outcomes = [];

    for (const sizeOf of [() => 1, () => entries.length, () => 1 + Math.floor(random() * 30)]) {
      await using books = await openBooks();
      await books.grant(account, 40_000n);
      const left = [...entries];
      while (left.length > 0) {
        await books.journal.append(left.splice(0, sizeOf()));
        if (random() < 0.5) {
          await projectAll(books.db, new Date(), { debtLimitNanos: 30_000n });
        }
      }
      await projectAll(books.db, new Date(), { debtLimitNanos: 30_000n });
      outcomes.push(await outcome(books));
      const owed = -(await books.held(account, "consumer_receivable"));
      expect(owed, `seed ${seed}`).toBeLessThanOrEqual(30_000n);
      expect(owed, `seed ${seed}`).toBeGreaterThan(25_000n);
      expect(await books.held(account, "consumer"), `seed ${seed}`).toBe(0n);
      expect(await reasons(books)).toContain("OVER_LIMIT");
      await isChained(books);
    }

    expect(outcomes[1], `seed ${seed}`).toEqual(outcomes[0]);
    expect(outcomes[2], `seed ${seed}`).toEqual(outcomes[0]);
  }, 180_000);

  test("is said of each account, else of all", async () => {
    await using books = await openBooks();
    const [developer, one, other] = [newAccountId(), newAccountId(), newAccountId()];
    await books.superuser.query(
      "insert into debt_limits (account_id, limit_nanos) values ($1, 0)",
      [one],
    );

    await books.journal.append([one, other].flatMap((account) => usage({ account, developer })));
    await books.project();

    expect(await books.held(one, "consumer_receivable")).toBe(0n);
    expect(await books.held(other, "consumer_receivable")).toBe(-1_000n);
    const { rows } = await books.superuser.query(
      "select account_id, topic from outbox order by id",
    );
    expect(new Map(rows.map(({ account_id, topic }) => [account_id, topic]))).toEqual(
      new Map([
        [one, "usage.quarantined"],
        [other, "usage.owed"],
      ]),
    );
  });

  test("does not hold what was refused for it against the same event later", async () => {
    await using books = await openBooks();
    const [account, developer] = [newAccountId(), newAccountId()];
    const event = usage({ account, developer });
    await books.journal.append([event]);
    await projectAll(books.db, new Date(), { debtLimitNanos: 0n });
    await books.grant(account, 1_000n);

    await books.journal.append([event]);
    await projectAll(books.db, new Date(), { debtLimitNanos: 0n });

    expect(await totals(books)).toEqual(Array(6).fill(1_000n));
    expect(await reasons(books)).toEqual(["OVER_LIMIT"]);
  });
});

describe("an event's identity", () => {
  test.for([
    ["2026-10-31T23:59:59.999Z", "2026-11-01T00:00:00Z", "again"],
    ["2026-09-01T00:00:00Z", "2026-11-30T23:59:59Z", "again"],
    // Appended by a process whose clock is behind.
    ["2026-11-01T00:00:00Z", "2026-10-31T23:59:59.999Z", "again"],
    ["2026-08-31T23:59:59Z", "2026-11-01T00:00:00Z", "anew"],
  ] as const)("received at %s counts %s %s", async ([first, second, outcome]) => {
    await using books = await openBooks();
    const event = usage({ account: newAccountId(0), developer: newAccountId() });

    await books.plant(encodeRow([event]));
    await receivedAt(books, first);
    await books.project();
    await books.plant(encodeRow([event, { ...event, endpoint: "GET /other" }]));
    await receivedAt(books, second);
    await books.project();

    const counted = { again: [1n, 1n, 1n], anew: [2n, 0n, 1n] }[outcome];
    expect(await repeats(books)).toEqual(counted);
    expect(await totals(books)).toEqual(Array(6).fill(must(counted[0]) * 1_000n));
  });

  test("counts once in one round over a month's edge", async () => {
    await using books = await openBooks();
    const event = usage({ account: newAccountId(0), developer: newAccountId() });

    await books.plant(encodeRow([event]));
    await receivedAt(books, "2026-10-31T23:59:59.999Z");
    await books.plant(encodeRow([event, event]));
    await receivedAt(books, "2026-11-01T00:00:00Z");
    await books.project();

    expect(await repeats(books)).toEqual([1n, 2n, 0n]);
  });

  test("counts anew in one round over three months", async () => {
    await using books = await openBooks();
    const event = usage({ account: newAccountId(0), developer: newAccountId() });

    await books.plant(encodeRow([event]));
    await receivedAt(books, "2026-07-31T23:59:59.999Z");
    await books.plant(encodeRow([event, event]));
    await receivedAt(books, "2026-11-01T00:00:00Z");
    await books.project();

    expect(await repeats(books)).toEqual([2n, 1n, 0n]);
    expect(await firstDifference(books)).toBeNull();
  });

  test.for([
    ["as it came", "GET /x", [1n, 1n, 0n]],
    ["as another one", "GET /other", [1n, 0n, 1n]],
  ] as const)(
    "counts once when it comes back from quarantine months later, %s",
    async ([, endpoint, expected]) => {
      await using books = await openBooks();
      const event = usage({ account: newAccountId(0), developer: newAccountId() });
      await books.plant(encodeRow([event]));
      await receivedAt(books, "2026-01-10T00:00:00Z");
      await projectAll(books.db, new Date(), { debtLimitNanos: 0n });
      await books.plant(encodeRow([event]));
      await receivedAt(books, "2026-01-11T00:00:00Z");
      await books.project();
      expect(await totals(books)).toEqual(Array(6).fill(1_000n));

      const replays = { position: 1n, ordinal: 0 };
      await books.superuser.query(
        "update usage_quarantine set state = 'replayed', replay_position = 3",
      );
      await books.plant(encodeRow([{ ...event, kind: "replay", replays, endpoint }]));
      await receivedAt(books, "2026-05-01T00:00:00Z");
      await books.project();

      expect(await repeats(books)).toEqual(expected);
      expect(await totals(books)).toEqual(Array(6).fill(1_000n));
      expect(await firstDifference(books)).toBeNull();
      await books.superuser.query("update usage_quarantine set replay_position = 9");
      expect(await firstDifference(books)).toMatchObject({ field: "quarantine.replay_position" });
    },
  );
});

test("an event is stored letter by letter, whatever is in it", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(0), newAccountId()];
  const texts = [
    "NULL",
    "null",
    "{}",
    '"',
    "\\",
    '\\"',
    " a ",
    ",",
    "a\nb",
    "\u{1f418}",
    "\\x00",
    "''",
    "{NULL}",
  ];

  await books.journal.append(
    texts.map((text) =>
      usage({ account, developer, source: text, id: text, endpoint: text, data: text }),
    ),
  );
  await books.project();

  const { rows } = await books.superuser.query(
    "select source, id, endpoint, data from usage_events order by position, ordinal",
  );
  expect(rows).toEqual(
    texts.map((text) => ({ source: text, id: text, endpoint: text, data: text })),
  );
});

test("a shard that goes no further is told", { timeout: 90_000 }, async () => {
  await using books = await openBooks();
  const registry = new Registry();
  let told = "";
  let failures = 0;
  await failInserts(books, "XX000");
  await books.journal.append([usage({ account: newAccountId(0), developer: newAccountId() })]);

  const projectors = startProjectors({
    db: books.db,
    progress: { note: () => {} },
    shards: shardCount,
    holder: randomUUID(),
    debtLimitNanos: 1_000_000n,
    now: () => new Date(),
    onError: (error) => {
      told = String(error);
      failures += 1;
    },
    metrics: createProjectorMetrics(registry),
  });
  await until(() => failures >= 5);
  // The pauses before the tenth round alone are 9 s.
  await until(() => told.startsWith("Error: Cannot apply shard 0: 1"), 40_000);
  expect(await registry.metrics()).toContain('callora_projector_stuck{shard="0"} 1');
  await books.superuser.query("drop trigger fail on usage_rollups");
  await until(async () => (await behind(books)) === 0n);
  // Counted after the commit, which others see before.
  await expect.poll(() => registry.metrics()).toContain('callora_projector_stuck{shard="0"} 0');
  await projectors.stop();
});

test("a lease whose account does not hold what is left of it stops nothing", async () => {
  await using books = await openBooks();
  const [poor, other, developer] = [newAccountId(0), newAccountId(0), newAccountId()];
  for (const accountId of [poor, other]) {
    await books.grant(accountId, 5_000n);
    await books.db.systemTransaction((tx) =>
      acquireLease(
        tx,
        {
          ...{
            accountId,
            mode: "live",
            holder: "h",
            wantNanos: 2_000n,
            leastNanos: 2_000n,
            shard: 0,
          },
        },
        new Date(),
      ),
    );
  }
  await books.superuser.query(
    `update ledger_accounts set credits_nanos = 100 where kind = 'lease_escrow' and account_id = $1`,
    [poor],
  );
  await books.db.systemTransaction((tx) => drainLeases(tx, { holder: "h", leaseIds: null }));
  await books.journal.append([usage({ account: other, developer })]);

  const round = await projectOnce(books.db, 0);
  await books.project();

  expect(round.problem).toMatch(/^Cannot give back what is left of lease lea_\w+: .* 23514/);
  expect(await books.held(poor, "lease_escrow")).toBe(100n);
  expect(await books.held(other, "lease_escrow")).toBe(0n);
  expect(await books.held(other, "consumer")).toBe(4_000n);
  expect(await behind(books)).toBe(0n);
});

test("a meter that cannot be read any more stops neither usage nor corrections", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(0), newAccountId()];
  const event = usage({ account, developer });
  await books.journal.append([event]);
  await books.project();
  await books.superuser.query(
    `insert into meters (account_id, id, slug, aggregation, value_path, side, start_positions, state)
     values ($1, $2, 'm', 'sum', 'no path', 'consumer', '{0,0}', 'active')`,
    [account, `mtr_${"0".repeat(26)}`],
  );

  const { source, id } = event;
  const correctionId = `cor_${"0".repeat(26)}`;
  await books.journal.append([
    { kind: "void", account, source, id, correctionId, adjustedNanos: 0n, reason: "x" },
  ]);
  await books.journal.append([usage({ account, developer })]);
  await books.project();

  expect(await books.sum("select count(*) as sum from usage_quarantine")).toBe(2n);
  expect(await books.sum("select count(*) as sum from usage_corrections")).toBe(0n);
  expect(await reasons(books)).toEqual(["POISONED"]);
  expect(await behind(books)).toBe(0n);
});

test("a process goes on by itself once what failed passes, and counts what it did", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(0), newAccountId()];
  const registry = new Registry();
  const errors: unknown[] = [];
  await failInserts(books, "53100");
  const event = usage({ account, developer });
  await books.journal.append([event, event, { ...event, endpoint: "GET /other" }]);

  const projectors = startProjectors({
    db: books.db,
    progress: { note: () => {} },
    shards: shardCount,
    holder: randomUUID(),
    debtLimitNanos: 100_000_000_000n,
    now: () => new Date(),
    onError: (error) => errors.push(error),
    metrics: createProjectorMetrics(registry),
  });
  const begun = performance.now();
  await until(() => {
    projectors.wake();
    return errors.length >= 3 && performance.now() - begun > 1_000;
  });
  // 50 ms, 100, 200, 400, 800: what comes in meanwhile does not end the pause after a failure.
  expect(errors.length).toBeLessThanOrEqual(6);
  await books.superuser.query("drop trigger fail on usage_rollups");
  await until(async () => (await behind(books)) === 0n);
  // Counted after the commit, which others see before.
  await until(async () => (await registry.metrics()).includes('outcome="applied"} 1'));
  const lines = await registry.metrics();
  await projectors.stop();

  expect(await totals(books)).toEqual(Array(6).fill(1_000n));
  expect(lines).toContain('callora_projected_entries_total{shard="0",outcome="applied"} 1');
  expect(lines).toContain('callora_projected_entries_total{shard="0",outcome="duplicate"} 1');
  expect(lines).toContain('callora_projected_entries_total{shard="0",outcome="quarantined"} 1');
  expect(lines).toMatch(/callora_projector_failures_total\{shard="0"\} [3-9]/);
  expect(lines).toContain('callora_projector_held{shard="1"} 1');
  expect(await books.sum("select count(holder) as sum from projector_cursors")).toBe(0n);
});

test("while calls are busy, a shard that stands still holds up no other", async () => {
  await using books = await openBooks();
  const held = new Set<number>();
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  let [stands, isStanding] = [false, false];
  const projectors = startProjectors({
    db: {
      async systemTransaction(work) {
        if (stands && !isStanding) {
          isStanding = true;
          await released;
        }
        return books.db.systemTransaction(work);
      },
    },
    progress: { note: () => {} },
    shards: shardCount,
    holder: randomUUID(),
    debtLimitNanos: 100_000_000_000n,
    now: () => new Date(),
    onError: () => {},
    metrics: {
      ...createProjectorMetrics(new Registry()),
      held: (shard, isHeld) => void (isHeld && held.add(shard)),
    },
    utilization: () => 1,
  });
  await until(() => held.size === shardCount);
  stands = true;
  await until(() => isStanding);

  await books.journal.append(
    [newAccountId(0), newAccountId(1)].map((account) =>
      usage({ account, developer: newAccountId() }),
    ),
  );
  await until(async () => (await books.sum("select count(*) as sum from usage_events")) === 1n);
  release();
  await until(async () => (await behind(books)) === 0n);
  await projectors.stop();

  expect(await totals(books)).toEqual(Array(6).fill(2_000n));
});

test("an event of a closed month is billed in the next open one, and shown in its own time", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(0), newAccountId()];
  const time = "2026-09-30T23:59:59Z";
  await books.journal.append([usage({ account, developer, time })]);
  await books.superuser.query(
    "insert into periods (month, closed_position, settlement_id) values ('2026-09-01', 1, 's'), ('2026-10-01', 1, 's')",
  );
  await books.journal.append([usage({ account, developer, time })]);
  await books.project();

  const { rows } = await books.superuser.query(
    "select bucket, booked_month::text as month, calls::int as calls from usage_rollups order by 2",
  );
  const bucket = new Date("2026-09-30T23:45:00Z");
  expect(rows).toEqual([
    { bucket, month: "2026-09-01", calls: 1 },
    { bucket, month: "2026-11-01", calls: 1 },
  ]);
  expect(await books.sum("select count(*) as sum from revenue_rollups")).toBe(2n);
});
