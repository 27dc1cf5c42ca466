import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { IdleTransactionTimeoutError } from "slonik";
import { inject } from "vitest";
import { checkConservation } from "../../src/conservation.ts";
import { acquireLease } from "../../src/credits/leases.ts";
import type { Database } from "../../src/db/database.ts";
import type { Tx } from "../../src/db/pool.ts";
import { readSnapshot } from "../../src/db/snapshot.ts";
import { findDifference } from "../../src/difference.ts";
import type { Mode } from "../../src/ledger/store.ts";
import { newId } from "../../src/lib/id.ts";
import { shardCount, shardOf, type UsageEntry } from "../../src/metering/entry.ts";
import { createJournal } from "../../src/metering/journal.ts";
import { projectShard, type Round, type RoundOptions } from "../../src/metering/projector.ts";
import { rerate } from "../../src/metering/rerate.ts";
import { claimShard, releaseShard, type ShardLease } from "../../src/metering/shard-lease.ts";
import { openDatabase } from "../../src/server.ts";
import { enterTreasury } from "../../src/settlement/treasury.ts";
import { type NetworkConfig, openNetwork } from "../../src/stellar/network.ts";
import { createDatabase } from "./cluster.ts";
import { grant } from "./grant.ts";

export { grant } from "./grant.ts";
export { seeded } from "./seeded.ts";

/** The books on a database of their own, without loops: whatever happens, a test makes happen. */
export async function openBooks() {
  const database = await createDatabase(inject("cluster"));
  const db = await openDatabase(database.urls);
  const superuser = new pg.Client({ connectionString: database.urls.superuser });
  await superuser.connect();
  const journal = createJournal({ db, onAppended: () => {} });

  async function sum(text: string, values: unknown[] = []): Promise<bigint> {
    const { rows } = await superuser.query<{ sum: string }>(text, values);
    return BigInt(rows[0]?.sum ?? 0);
  }

  return {
    db,
    urls: database.urls,
    /** A session that may do what no role of the server may. */
    superuser,
    journal,
    sum,

    /** Credits less debits. */
    held: (accountId: string, kind: string, mode: Mode = "live") =>
      sum(
        `select sum(credits_nanos - debits_nanos) from ledger_accounts
         where account_id = $1 and kind = $2 and mode = $3`,
        [accountId, kind, mode],
      ),

    grant: (accountId: string, amountNanos: bigint, mode: Mode = "live") =>
      grant(db, accountId, amountNanos, mode),

    /** Put a row into the journal as no server of ours writes it. */
    plant: async (body: Buffer, { shard = 0, codec = 1 } = {}) => {
      await superuser.query("update journal_head set position = position + 1");
      await superuser.query(
        `insert into usage_journal (shard, position, codec, body, entries)
         select $1, position, $2, $3, 1 from journal_head`,
        [shard, codec, body],
      );
    },

    /** Apply all that is in the journal, and close all leases that are drained. */
    project: (now = new Date()) => projectAll(db, now),

    async [Symbol.asyncDispose]() {
      await superuser.end();
      await db.close();
      await database.drop();
    },
  };
}

/** The books with a network to pay on, its directory gone at the end of the scope. */
export async function openBooksAndNetwork(
  options: Partial<Extract<NetworkConfig, { name: "embedded" }>> = {},
) {
  const books = await openBooks();
  const directory = await mkdtemp(join(tmpdir(), "callora-books-"));
  const now = () => new Date();
  const settings = { directory, port: 0, now, closeDelayMs: 5, ...options };
  const network = await openNetwork({ name: "embedded", ...settings });
  await enterTreasury({ db: books.db, network }, now());
  return {
    ...books,
    network,
    /** Where the network keeps its keys. */
    directory,
    conservation: () => checkConservation({ db: books.db, network }),
    async [Symbol.asyncDispose]() {
      await network.close();
      await books[Symbol.asyncDispose]();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Apply all that is in the journal, of the shards that nobody else holds. */
export async function projectAll(
  db: Database,
  now = new Date(),
  options: Partial<RoundOptions> = {},
): Promise<void> {
  for (let shard = 0; shard < shardCount; shard++) {
    const lease = await holdShard(db, shard);
    if (lease === null) {
      continue;
    }
    const round = { ...roundOptions(now), ...options };
    const next = () => db.systemTransaction((tx) => projectShard(tx, lease, round));
    try {
      while ((await patiently(next)).outcome === "more") {}
    } finally {
      await db.systemTransaction((tx) => releaseShard(tx, lease));
    }
  }
}

/**
 * Try again what the database broke off, as loops and callers do: a projector waits two seconds for a lock, and whoever
 * holds credit's locks may stand still for as long. On a busy machine that is no harm.
 */
export async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      const isLate = error instanceof Error && Reflect.get(error, "code") === "55P03";
      if (!(isLate || error instanceof IdleTransactionTimeoutError) || tries === 10) {
        throw error;
      }
    }
  }
}

/** How a round goes when nothing else is said. */
export function roundOptions(now = new Date()): RoundOptions {
  return { entriesMax: 5_000, debtLimitNanos: 100_000_000_000n, passesBy: true, now };
}

/** Claim a shard for a minute. Null when another one has it. */
export function holdShard(db: Database, shard: number): Promise<ShardLease | null> {
  const wanted = { shard, holder: randomUUID(), leaseMs: 60_000 };
  return db.systemTransaction((tx) => claimShard(tx, wanted));
}

/** Apply the next rows of one shard, which nobody else may hold. */
export async function projectOnce(
  db: Database,
  shard: number,
  { wrap = (tx) => tx, ...options }: Partial<RoundOptions> & { wrap?: (tx: Tx) => Tx } = {},
): Promise<Round> {
  const lease = await holdShard(db, shard);
  if (lease === null) {
    throw new Error("another one holds the shard");
  }
  try {
    return await db.systemTransaction((tx) =>
      projectShard(wrap(tx), lease, { ...roundOptions(), ...options }),
    );
  } finally {
    await db.systemTransaction((tx) => releaseShard(tx, lease));
  }
}

/** An account's id, of one shard if it says so. Nothing needs the account to be there. */
export function newAccountId(shard?: number): string {
  const id = newId("acc", new Date());
  return shard === undefined || shardOf(id, shardCount) === shard ? id : newAccountId(shard);
}

/** An API's id. */
export function newApiId(): string {
  return newId("api", new Date());
}

/** A usage event for the journal. Costs 1,000 nanos if it does not say otherwise. */
export function usage({
  developer,
  api = someApiId,
  charged = "1000",
  feeBasisPoints = 1_000,
  time = "2026-11-20T10:07:00.000Z",
  ...of
}: Pick<UsageEntry, "account"> &
  Partial<UsageEntry> & {
    developer: string;
    api?: string;
    charged?: string;
    feeBasisPoints?: number;
    time?: string;
  }): UsageEntry {
  return {
    kind: "usage",
    source: "test",
    id: randomUUID(),
    mode: "live",
    price: {
      apiId: api,
      developerId: developer,
      version: 1,
      unitNanos: BigInt(charged),
      feeBasisPoints,
      rule: "",
    },
    keyId: null,
    endpoint: "GET /x",
    status: 200,
    timeMicros: BigInt(Date.parse(time)) * 1_000n,
    timeUnset: false,
    data: "",
    units: 1n,
    // As the door promises it: what failed on the server costs nothing.
    chargedNanos: (of.status ?? 200) >= 500 ? 0n : BigInt(charged),
    lease: null,
    requestId: "",
    replays: null,
    outcome: "whole",
    unitsBefore: 0n,
    keptHash: null,
    ...of,
  };
}

const someApiId = `api_${"0".repeat(26)}`;

/** Acquire a lease for an account. Resolves to its id, or to null when there is not credit enough. */
export async function leaseOf(
  { db }: { db: Database },
  accountId: string,
  wantNanos: bigint,
  leastNanos = 1n,
): Promise<string | null> {
  const outcome = await db.systemTransaction((tx) =>
    acquireLease(
      tx,
      {
        accountId,
        mode: "live",
        holder: "h",
        wantNanos,
        leastNanos,
        shard: shardOf(accountId, shardCount),
      },
      new Date(),
    ),
  );
  return "lease" in outcome ? outcome.lease.id : null;
}

/** Where the books and what was made of them differ first, and how. Null: nowhere. */
export async function firstDifference({ db }: { db: Database }) {
  return db.systemTransaction(async (tx) => {
    await readSnapshot(tx);
    return findDifference(tx, await rerate(tx));
  });
}
