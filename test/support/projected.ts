import { expect } from "vitest";
import type { Tx } from "../../src/db/pool.ts";
import { readSnapshot } from "../../src/db/snapshot.ts";
import { shardCount, shardOf } from "../../src/metering/entry.ts";
import { rerate } from "../../src/metering/rerate.ts";
import { claimShard } from "../../src/metering/shard-lease.ts";
import type { openBooks } from "./books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

export function claim(books: Books, name: string, leaseMs: number) {
  const holder = `00000000-0000-4000-8000-00000000000${name}`;
  return books.db.systemTransaction((tx) => claimShard(tx, { shard: 0, holder, leaseMs }));
}

/** Have the database refuse events by their endpoint. */
export async function refusePoison({ superuser }: Books): Promise<void> {
  await superuser.query(
    "alter table usage_events add constraint no_poison check (endpoint <> 'poison')",
  );
}

/** What rating anew finds to be different first. */
export async function firstDifference(books: Books) {
  return books.db.systemTransaction(async (tx) => {
    await readSnapshot(tx);
    return (await rerate(tx)).difference;
  });
}

/** Have the database fail in the middle of a round. */
export async function failInserts({ superuser }: Books, state: string): Promise<void> {
  await superuser.query(`
    create or replace function fail() returns trigger language plpgsql as
      $$ begin raise exception 'as a test wants it' using errcode = '${state}'; end $$;
    create or replace trigger fail before insert on usage_rollups
      for each row execute function fail();
  `);
}

/** Say when the journal received its last row. */
export async function receivedAt({ superuser }: Books, time: string): Promise<void> {
  await superuser.query("alter table usage_journal disable trigger usage_journal_no_update");
  await superuser.query(
    "update usage_journal set appended_at = $1 where position = (select position from journal_head)",
    [time],
  );
  await superuser.query("alter table usage_journal enable trigger usage_journal_no_update");
}

/** Events, how often they came again, and how often others came under their identity. */
export async function repeats({ sum }: Books): Promise<bigint[]> {
  return [
    await sum("select count(*) as sum from usage_events"),
    await sum("select sum(duplicates) from usage_events"),
    await sum("select sum(conflicts) from usage_events"),
  ];
}

export async function reasons({ superuser }: Books): Promise<string[]> {
  const { rows } = await superuser.query("select distinct reason from usage_quarantine");
  return rows.map(({ reason }) => reason).sort();
}

/** How many positions are not applied in the shard that is last. */
export function behind({ sum }: Books): Promise<bigint> {
  return sum(
    "select head.position - min(cursor.position) as sum " +
      "from journal_head as head, projector_cursors as cursor group by head.position",
  );
}

export async function shardsOf({ superuser }: Books): Promise<number[]> {
  const { rows } = await superuser.query("select distinct shard from usage_events order by shard");
  for (const { account_id, shard } of (
    await superuser.query("select account_id, shard from usage_events")
  ).rows) {
    expect(shardOf(account_id, shardCount)).toBe(shard);
  }
  return rows.map(({ shard }) => shard);
}

/** What became of each event, in the order of the journal, without what batches are made of. */
export async function outcome({ superuser }: Books): Promise<unknown> {
  const events = await superuser.query(
    "select account_id, mode, id, charged_nanos, fee_nanos, owed_nanos, leased_nanos, " +
      "charged_before_nanos, booked_month::text, duplicates, conflicts from usage_events " +
      "order by position, ordinal",
  );
  const kept = await superuser.query(
    "select reason, mode, charged_nanos from usage_quarantine order by position, ordinal",
  );
  const last = await superuser.query(
    "select rating_hash from projections order by last_position desc limit 1",
  );
  return { events: events.rows, kept: kept.rows, chain: last.rows };
}

/** The sums of events are those of the batches, and every row of the journal is in one of these. */
export async function isChained(books: Books): Promise<void> {
  const { rows } = await books.superuser.query(
    "select shard, sum(events) as events, sum(charged_live_nanos + charged_test_nanos) as nanos, " +
      "sum(fee_nanos) as fees, sum(duplicates) as duplicates, sum(conflicts) as conflicts " +
      "from projections group by shard order by shard",
  );
  const found = await books.superuser.query(
    "select shard, count(*) as events, sum(charged_nanos) as nanos, sum(fee_nanos) as fees, " +
      "sum(duplicates) as duplicates, sum(conflicts) as conflicts " +
      "from usage_events group by shard order by shard",
  );
  expect(rows.filter(({ events }) => events !== "0")).toEqual(found.rows);
  expect(
    await books.sum(
      "select count(*) as sum from usage_journal as row where not exists (" +
        "select from projections where shard = row.shard and row.position between first_position and last_position)",
    ),
  ).toBe(0n);
}

/** What was used, found six ways: events, both roll-ups, charges, what consumers paid or owe, what was earned. */
export async function totals({ sum }: Books): Promise<bigint[]> {
  return [
    await sum("select sum(charged_nanos) from usage_events"),
    await sum("select sum(charged_nanos) from usage_rollups"),
    await sum("select sum(revenue_nanos) from revenue_rollups"),
    await sum("select sum(charged_nanos) from charge_totals"),
    await sum(
      "select sum(amount_nanos) from ledger_transfers " +
        "where source_type = 'usage' and credit_kind = 'clearing'",
    ),
    await sum(
      "select sum(credits_nanos - debits_nanos) from ledger_accounts " +
        "where kind in ('payable', 'platform_fee')",
    ),
  ];
}

export class Crash extends Error {}

/** The transaction, which breaks off after so many statements. */
export function failAfter(tx: Tx, steps: number): Tx {
  let step = 0;
  return new Proxy(tx, {
    get(target, name) {
      const member = Reflect.get(target, name);
      if (typeof member !== "function") {
        return member;
      }
      return async (...parameters: unknown[]) => {
        const result = await member.apply(target, parameters);
        step += 1;
        if (step === steps) {
          throw new Crash();
        }
        return result;
      };
    },
  });
}
