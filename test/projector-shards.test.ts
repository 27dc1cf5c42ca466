import { sql } from "slonik";
import { describe, expect, test } from "vitest";
import { nothing } from "../src/db/pool.ts";
import { shardCount, type UsageEntry } from "../src/metering/entry.ts";
import { projectShard } from "../src/metering/projector.ts";
import { releaseShard, renewShard, type ShardLease } from "../src/metering/shard-lease.ts";
import { must, until } from "./support/app.ts";
import {
  holdShard,
  newAccountId,
  openBooks,
  patiently,
  projectOnce,
  roundOptions,
  seeded,
  usage,
} from "./support/books.ts";
import { behind, claim, isChained, shardsOf, totals } from "./support/projected.ts";

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

describe("two shards", () => {
  test(`applied at once share developers and platform without harm (seed ${seed})`, async () => {
    await using books = await openBooks();
    const random = seeded(seed);
    const developers = [newAccountId(), newAccountId(), newAccountId()];
    const consumers = Array.from({ length: 8 }, (_, index) => newAccountId(index % shardCount));
    // Everybody is everything: balances of one account are moved by both shards.
    const everybody = [...developers, ...consumers];
    const entries: UsageEntry[] = Array.from({ length: 1_500 }, () =>
      usage({
        account: must(consumers[Math.floor(random() * consumers.length)]),
        developer: must(everybody[Math.floor(random() * everybody.length)]),
        charged: String(Math.floor(random() * 5_000)),
        feeBasisPoints: 777,
      }),
    );
    let isDone = false;
    const projecting = Array.from({ length: shardCount }, async (_, shard) => {
      while (!isDone) {
        await patiently(() => projectOnce(books.db, shard, { entriesMax: 50 }));
      }
    });
    const granting = consumers.map(async (account) => {
      for (let count = 0; count < 20; count++) {
        await patiently(() => books.grant(account, 10_000n));
      }
    });

    while (entries.length > 0) {
      await books.journal.append(entries.splice(0, 1 + Math.floor(random() * 40)));
    }
    await Promise.all(granting);
    isDone = true;
    await Promise.all(projecting);
    await books.project();

    const total = await books.sum("select sum(charged_nanos) from usage_events");
    expect(await totals(books), `seed ${seed}`).toEqual(Array(6).fill(total));
    expect(await behind(books)).toBe(0n);
    expect(await shardsOf(books)).toEqual([0, 1]);
    await isChained(books);
  }, 180_000);

  test("do not wait for each other's rows", async () => {
    await using books = await openBooks();
    const developer = newAccountId();
    await books.journal.append([usage({ account: newAccountId(1), developer })]);
    await books.journal.append([usage({ account: newAccountId(0), developer })]);

    const round = await projectOnce(books.db, 0);

    expect(round).toMatchObject({ outcome: "more", position: 2n, counts: { events: 1 } });
    expect(await behind(books)).toBe(2n);
  });

  test("pass by each other's rows, at once or when there is time for it", async () => {
    await using books = await openBooks();
    await books.journal.append([usage({ account: newAccountId(1), developer: newAccountId() })]);

    const idle = await projectOnce(books.db, 0, { passesBy: false });
    expect(idle).toMatchObject({ outcome: "idle", position: 0n });
    const passing = await projectOnce(books.db, 0, { passesBy: true });
    expect(passing).toMatchObject({ outcome: "more", position: 1n });
  });
});

describe("a shard's lease", () => {
  test("is one holder's until it ends, and no older holder applies anything", async () => {
    await using books = await openBooks();
    const [account, developer] = [newAccountId(0), newAccountId()];
    const [holder, other] = [must(await claim(books, "a", 60_000)), "b"];
    await books.journal.append([usage({ account, developer })]);

    expect(await claim(books, other, 200)).toBeNull();
    await books.superuser.query("update projector_cursors set lease_end = clock_timestamp()");
    const taken = must(await claim(books, other, 60_000));

    const apply = (lease: typeof holder) =>
      books.db.systemTransaction((tx) => projectShard(tx, lease, roundOptions()));
    expect(taken.fence).toBe(holder.fence + 1n);
    expect(await apply(holder)).toMatchObject({ outcome: "fenced", counts: { events: 0 } });
    expect(await books.db.systemTransaction((tx) => renewShard(tx, holder, 200))).toBe(false);
    await books.db.systemTransaction((tx) => releaseShard(tx, holder));
    expect(await claim(books, "c", 200)).toBeNull();
    expect(await apply(taken)).toMatchObject({ outcome: "more", counts: { events: 1 } });
    expect(await totals(books)).toEqual(Array(6).fill(1_000n));
  });

  test("is not taken from a holder in the middle of a round, however old it is", async () => {
    await using books = await openBooks();
    const lease = must(await claim(books, "a", 1));
    await books.journal.append([usage({ account: newAccountId(0), developer: newAccountId() })]);

    await books.db.systemTransaction(async (tx) => {
      await projectShard(tx, lease, roundOptions());
      expect(await claim(books, "b", 1)).toBeNull();
    });

    expect(await totals(books)).toEqual(Array(6).fill(1_000n));
  });

  test("of a holder that stops in the middle ends with its session, which holds no lock longer", async () => {
    await using books = await openBooks();
    const lease = must(await claim(books, "a", 1));
    const [account, developer] = [newAccountId(0), newAccountId()];
    await books.journal.append([usage({ account, developer })]);

    await books.superuser.query("select pg_advisory_lock(1)");
    const [inside, isTaken] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const stopped = books.db.systemTransaction(async (tx) => {
      await projectShard(tx, lease, roundOptions());
      await tx.query(sql.type(nothing)`select set_config('lock_timeout', '0', true)`);
      // While a statement runs the session does not end: it is seen to hold the shard, however long that takes.
      const seen = tx.query(sql.type(nothing)`select pg_advisory_xact_lock(1)`);
      inside.resolve();
      await seen;
      await isTaken.promise;
    });
    const failed = expect(stopped).rejects.toThrow();
    await Promise.race([inside.promise, stopped]);
    expect(await holdShard(books.db, 0)).toBeNull();
    await books.superuser.query("select pg_advisory_unlock(1)");
    let taken: ShardLease | null = null;
    await until(async () => {
      taken = await holdShard(books.db, 0);
      return taken !== null;
    });
    const held = must<ShardLease>(taken);
    await books.db.systemTransaction((tx) => projectShard(tx, held, roundOptions()));
    isTaken.resolve();
    await failed;

    expect(await totals(books)).toEqual(Array(6).fill(1_000n));
    expect(await books.sum("select sum(duplicates) from usage_events")).toBe(0n);
  });
});
