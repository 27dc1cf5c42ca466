import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { inject } from "vitest";
import { checkConservation } from "../../src/conservation.ts";
import type { Database } from "../../src/db/database.ts";
import type { Mode } from "../../src/ledger/store.ts";
import { newId } from "../../src/lib/id.ts";
import { eventHash, type JournalEvent } from "../../src/metering/event.ts";
import { createJournal } from "../../src/metering/journal.ts";
import { projectNext } from "../../src/metering/projector.ts";
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
    conservation: () => checkConservation({ db: books.db, network }),
    async [Symbol.asyncDispose]() {
      await network.close();
      await books[Symbol.asyncDispose]();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Apply all that is in the journal. */
export async function projectAll(db: Database, now = new Date()): Promise<void> {
  while (await db.systemTransaction((tx) => projectNext(tx, now))) {}
}

/** An account's id. Nothing needs the account to be there. */
export function newAccountId(): string {
  return newId("acc", new Date());
}

/** An API's id. */
export function newApiId(): string {
  return newId("api", new Date());
}

/** A usage event for the journal. */
export function usage(
  of: Pick<JournalEvent, "account" | "developer"> & Partial<JournalEvent>,
): JournalEvent {
  const event = {
    source: "test",
    id: randomUUID(),
    mode: "live" as const,
    api: someApiId,
    key: null,
    endpoint: "GET /x",
    status: 200,
    time: "2026-11-20T10:07:00.000Z",
    priceVersion: 1,
    feeBasisPoints: 1_000,
    charged: "1000",
    lease: null,
    ...of,
  };
  return { hash: eventHash([event.api, event.time, event.endpoint, event.charged]), ...event };
}

const someApiId = `api_${"0".repeat(26)}`;
