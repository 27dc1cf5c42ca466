import { expect, test } from "vitest";
import { drainLeases } from "../src/credits/lease-end.ts";
import { readSnapshot } from "../src/db/snapshot.ts";
import { balanceOf } from "../src/ledger/balance.ts";
import { listBalances, listEntries } from "../src/ledger/statements.ts";
import { type Mode, platformAccountId } from "../src/ledger/store.ts";
import { newId } from "../src/lib/id.ts";
import { shareFloor } from "../src/lib/money.ts";
import { balancesAt } from "../src/metering/balance-at.ts";
import {
  type CorrectionEntry,
  shardCount,
  shardOf,
  type UsageEntry,
} from "../src/metering/entry.ts";
import { must } from "./support/app.ts";
import {
  firstDifference,
  leaseOf,
  newAccountId,
  openBooks,
  seeded,
  usage,
} from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);
const timeout = 120_000;
const modes: Mode[] = ["live", "test"];

/** What a history did: each event that counts, and each grant, with the journal's position that it counts from. */
interface History {
  accounts: string[];
  developers: string[];
  events: { position: bigint; entry: UsageEntry }[];
  grants: { position: bigint; account: string; mode: Mode; nanos: bigint }[];
  head: bigint;
}

/** Grants, leases, calls, debts, repeats, conflicts, test money and entries that make no sense, applied in parts. */
async function makeHistory(books: Books, random: () => number, rounds: number): Promise<History> {
  const below = (limit: number) => Math.floor(random() * limit);
  const accounts = [newAccountId(0), newAccountId(0), newAccountId(1)];
  // One is a consumer too: what it owes and what it earns are of one account.
  const developers = [newAccountId(0), must(accounts[2])];
  const history: History = { accounts, developers, events: [], grants: [], head: 0n };
  const leases = new Map<string, string>();
  const seen: UsageEntry[] = [];
  for (let round = 0; round < rounds; round++) {
    const account = must(accounts[below(3)]);
    const mode = random() < 0.2 ? "test" : "live";
    const step = random();
    if (step < 0.15) {
      const nanos = BigInt(1 + below(20_000));
      await books.grant(account, nanos, mode);
      history.grants.push({ position: history.head, account, mode, nanos });
    } else if (step < 0.3) {
      const lease = await leaseOf(books, account, BigInt(1 + below(5_000)));
      if (lease !== null) {
        leases.set(account, lease);
      }
    } else if (step < 0.35) {
      await books.db.systemTransaction((tx) => drainLeases(tx, { holder: "h", leaseIds: null }));
    } else if (step < 0.4) {
      await books.plant(Buffer.from("no entry"), { shard: below(2) });
      history.head += 1n;
    } else if (step < 0.6) {
      await books.project();
    } else {
      const entries = Array.from({ length: 1 + below(6) }, () =>
        newEntry(history, seen, leases, random),
      );
      const { places } = await books.journal.append(entries);
      for (const [index, entry] of entries.entries()) {
        const { position } = must(places[index]);
        history.head = position > history.head ? position : history.head;
        if (!seen.some(({ id, account: whose }) => id === entry.id && whose === entry.account)) {
          seen.push(entry);
          history.events.push({ position, entry });
        }
      }
    }
  }
  await books.project();
  return history;
}

function newEntry(
  { accounts, developers }: History,
  seen: readonly UsageEntry[],
  leases: ReadonlyMap<string, string>,
  random: () => number,
): UsageEntry {
  const below = (limit: number) => Math.floor(random() * limit);
  const earlier = seen[below(seen.length)];
  if (earlier !== undefined && random() < 0.2) {
    return random() < 0.5 ? earlier : { ...earlier, endpoint: "GET /other" };
  }
  const account = must(accounts[below(3)]);
  const isFree = random() < 0.1;
  return usage({
    account,
    developer: must(developers[below(2)]),
    mode: random() < 0.2 ? "test" : "live",
    charged: String(isFree ? 0 : below(3_000)),
    ...(isFree ? { status: 500 } : {}),
    feeBasisPoints: random() < 0.5 ? 1_234 : 333,
    lease: random() < 0.5 ? (leases.get(account) ?? null) : null,
  });
}

/** What developers have earned, and the platform of them, by account, when all up to a position is applied. */
function earned({ events }: History, mode: Mode, position: bigint) {
  const nets = new Map<string, bigint>();
  const gross = new Map<string, { developer: string; basisPoints: number; nanos: bigint }>();
  for (const { entry } of events.filter((one) => one.position <= position)) {
    const { developerId: developer, feeBasisPoints: basisPoints } = entry.price;
    const key = `${developer} ${basisPoints} ${shardOf(entry.account, shardCount)}`;
    const nanos = (gross.get(key)?.nanos ?? 0n) + (entry.mode === mode ? entry.chargedNanos : 0n);
    gross.set(key, { developer, basisPoints, nanos });
  }
  let fees = 0n;
  for (const { developer, basisPoints, nanos } of gross.values()) {
    const fee = shareFloor(nanos, basisPoints);
    fees += fee;
    nets.set(developer, (nets.get(developer) ?? 0n) + nanos - fee);
  }
  return { nets, fees };
}

test(`balances at every position are what was granted, used and earned up to it (seed ${seed})`, {
  timeout,
}, async () => {
  await using books = await openBooks();
  const history = await makeHistory(books, seeded(seed), 90);
  const everybody = [...new Set([...history.accounts, ...history.developers, platformAccountId])];
  let looks = 0;
  for (let position = 0n; position <= history.head; position++) {
    for (const mode of modes) {
      const message = `seed ${seed}, ${mode} at ${position}`;
      const { nets, fees } = earned(history, mode, position);
      let clearing = 0n;
      for (const accountId of everybody) {
        const moved = await books.db.systemTransaction((tx) =>
          balancesAt(tx, { accountId, mode, position }),
        );
        const held = (kind: string) => {
          const of = moved.get(kind);
          return of === undefined ? 0n : of.creditsNanos - of.debitsNanos;
        };
        const granted = sumOf(history.grants, (one) =>
          one.account === accountId && one.mode === mode && one.position <= position
            ? one.nanos
            : 0n,
        );
        const used = sumOf(history.events, ({ entry, position: at }) =>
          entry.account === accountId && entry.mode === mode && at <= position
            ? entry.chargedNanos
            : 0n,
        );
        expect(held("consumer") + held("lease_escrow") + held("consumer_receivable"), message).toBe(
          granted - used,
        );
        expect(held("payable"), message).toBe(nets.get(accountId) ?? 0n);
        expect(held("platform_fee"), message).toBe(accountId === platformAccountId ? fees : 0n);
        expect(sumOf([...moved.keys()], held), message).toBe(0n);
        clearing += held("clearing");
        looks += 1;
      }
      expect(clearing, message).toBe(0n);
    }
  }
  expect(looks).toBeGreaterThan(100);
  for (const accountId of everybody) {
    for (const mode of modes) {
      const now = await books.db.tenantRead(accountId, (tx) =>
        listBalances(tx, { accountId, mode, upTo: null }),
      );
      const then = await books.db.systemTransaction((tx) =>
        balancesAt(tx, { accountId, mode, position: history.head }),
      );
      expect(Object.fromEntries(then), `seed ${seed}`).toEqual(Object.fromEntries(now));
    }
  }
  const beyond = books.db.systemTransaction((tx) =>
    balancesAt(tx, { accountId: platformAccountId, mode: "live", position: history.head + 1n }),
  );
  await expect(beyond).rejects.toThrow(/is applied up to/);
});

test(`corrections leave all in balance, at every position (seed ${seed})`, {
  timeout,
}, async () => {
  await using books = await openBooks();
  const random = seeded(seed);
  const { events, accounts, developers } = await makeHistory(books, random, 40);
  for (let round = 0; round < 12; round++) {
    const { entry } = must(events[Math.floor(random() * events.length)]);
    const isVoid = random() < 0.4;
    const correction: CorrectionEntry = {
      kind: isVoid ? "void" : "adjust",
      account: entry.account,
      source: entry.source,
      id: random() < 0.1 ? "unknown" : entry.id,
      correctionId: newId("cor", new Date()),
      adjustedNanos: isVoid ? 0n : BigInt(Math.floor(random() * 3_000)),
      reason: "wrong",
    };
    await books.db.systemTransaction((tx) => books.journal.appendIn(tx, [correction]));
    if (random() < 0.5) {
      await books.project();
    }
  }
  await books.project();

  expect(await firstDifference(books), `seed ${seed}`).toBeNull();
  const head = await books.sum("select position as sum from journal_head");
  for (let position = head - 12n; position <= head; position++) {
    for (const mode of modes) {
      let clearing = 0n;
      for (const accountId of new Set([...accounts, ...developers, platformAccountId])) {
        const moved = await books.db.systemTransaction((tx) =>
          balancesAt(tx, { accountId, mode, position }),
        );
        const { debitsNanos = 0n, creditsNanos = 0n } = moved.get("clearing") ?? {};
        const held = [...moved.values()].map((one) => one.creditsNanos - one.debitsNanos);
        expect(
          sumOf(held, (nanos) => nanos),
          `seed ${seed}, at ${position}`,
        ).toBe(0n);
        clearing += creditsNanos - debitsNanos;
      }
      expect(clearing, `seed ${seed}, at ${position}`).toBe(0n);
    }
  }
});

function sumOf<T>(list: readonly T[], nanos: (one: T) => bigint): bigint {
  return list.reduce((sum, one) => sum + nanos(one), 0n);
}

test(`statements add up to the balances, in pages of any size and from any time (seed ${seed})`, {
  timeout,
}, async () => {
  await using books = await openBooks();
  const random = seeded(seed);
  const { accounts, developers } = await makeHistory(books, random, 90);
  let shown = 0;
  for (const accountId of new Set([...accounts, ...developers, platformAccountId])) {
    const balances = await books.db.tenantRead(accountId, (tx) =>
      listBalances(tx, { accountId, mode: "live", upTo: null }),
    );
    for (const [kind, moved] of balances) {
      const message = `seed ${seed}, ${kind} of ${accountId}`;
      const of = { accountId, mode: "live", kind, from: null, to: null, after: "" } as const;
      const read = (more: object) =>
        books.db.tenantRead(accountId, async (tx) => {
          await readSnapshot(tx);
          return listEntries(tx, { ...of, limit: 1_000, ...more });
        });
      const { entries, openingNanos } = await read({});
      shown += entries.length;
      expect(openingNanos).toBe(0n);
      expect(entries.at(-1)?.balanceNanos, message).toBe(balanceOf(kind, moved));
      expect(
        sumOf(entries, ({ deltaNanos }) => deltaNanos),
        message,
      ).toBe(balanceOf(kind, moved));

      const size = 1 + Math.floor(random() * 4);
      const paged: typeof entries = [];
      for (let after = ""; ; after = must(paged.at(-1)).id) {
        const page = await read({ after, limit: size });
        expect(page.openingNanos, message).toBe(paged.at(-1)?.balanceNanos ?? 0n);
        paged.push(...page.entries);
        if (page.entries.length < size) {
          break;
        }
      }
      expect(paged, message).toEqual(entries);

      const middle = must(entries[Math.floor(random() * entries.length)]);
      const from = new Date(middle.createdAt);
      const [before, later] = [await read({ to: from }), await read({ from })];
      expect([...before.entries, ...later.entries], message).toEqual(entries);
      expect(later.openingNanos, message).toBe(before.entries.at(-1)?.balanceNanos ?? 0n);
    }
  }
  expect(shown).toBeGreaterThan(30);
});

async function hashesOf(books: Books) {
  const { rows } = await books.superuser.query(
    `select distinct on (shard) shard, encode(rating_hash, 'hex') as hash from projections
     order by shard, last_position desc`,
  );
  return rows;
}

test(`the same journal gives the same bytes, however it is applied, and rating it again does too (seed ${seed})`, {
  timeout,
}, async () => {
  await using one = await openBooks();
  await makeHistory(one, seeded(seed), 90);
  const { rows: journal } = await one.superuser.query(
    "select shard, codec, body from usage_journal order by position",
  );
  await using other = await openBooks();
  for (const { shard, codec, body } of journal) {
    await other.plant(body, { shard, codec });
  }
  await other.project();

  const hashes = await hashesOf(one);
  expect(hashes).toHaveLength(2);
  expect(await hashesOf(other)).toEqual(hashes);
  expect(await firstDifference(one)).toBeNull();
  expect(await firstDifference(other)).toBeNull();
});
