import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";
import { type Moved, signOf } from "./balance.ts";
import type { Mode } from "./store.ts";

const movedRow = z.object({
  kind: z.string(),
  debits_nanos: z.bigint(),
  credits_nanos: z.bigint(),
});

/**
 * What was ever moved of an account's money, by kind; kinds that never were are left out.
 *
 * With `upTo` only what counts from that journal position or an earlier one: of usage whole batches.
 */
export async function listBalances(
  db: Queries,
  { accountId, mode, upTo }: { accountId: string; mode: Mode; upTo: bigint | null },
): Promise<Map<string, Moved>> {
  const rows = await db.any(
    upTo === null
      ? sql.type(movedRow)`
          select kind, debits_nanos, credits_nanos from ledger_accounts
          where account_id = ${accountId} and mode = ${mode}
            and (debits_nanos > 0 or credits_nanos > 0)
          order by kind
        `
      : sql.type(movedRow)`
          select kind, sum(debit)::int8 as debits_nanos, sum(credit)::int8 as credits_nanos
          from (
            select debit_kind as kind, amount_nanos as debit, 0::int8 as credit
            from ledger_transfers
            where account_id = ${accountId} and mode = ${mode} and position <= ${upTo}
            union all
            select credit_kind, 0, amount_nanos from ledger_transfers
            where account_id = ${accountId} and mode = ${mode} and position <= ${upTo}
          ) as sides
          group by kind order by kind
        `,
  );
  return new Map(
    rows.map((row) => [
      row.kind,
      { debitsNanos: row.debits_nanos, creditsNanos: row.credits_nanos },
    ]),
  );
}

const entryRow = z.object({
  id: z.string(),
  created_at: z.number(),
  debit_kind: z.string(),
  credit_kind: z.string(),
  amount_nanos: z.bigint(),
  source_type: z.string(),
  source_id: z.string(),
  position: z.bigint(),
});

/** A transfer that moved the asked kind. `deltaNanos` is what it added to the balance, `balanceNanos` that after it. */
export interface StatementEntry {
  id: string;
  createdAt: number;
  counterpart: string;
  deltaNanos: bigint;
  balanceNanos: bigint;
  source: string;
  position: bigint;
}

/** What a statement shows: from `from` up to `to`, after the transfer `after` (empty: from the first). */
export interface StatementQuery {
  accountId: string;
  mode: Mode;
  kind: string;
  from: Date | null;
  to: Date | null;
  after: string;
  limit: number;
}

/**
 * List what moved one kind of an account's money, oldest first, and the balance before the first of it.
 *
 * Both are read by statements of their own: a transaction that shows one state of the books makes them agree.
 */
export async function listEntries(
  db: Queries,
  query: StatementQuery,
): Promise<{ openingNanos: bigint; entries: StatementEntry[] }> {
  const openingNanos = await sumBefore(db, query);
  const rows = await db.any(sql.type(entryRow)`
    select id, created_at, debit_kind, credit_kind, amount_nanos, source_type, source_id, position
    from ledger_transfers
    where ${ofKind(query)} and ${afterLast(query)}
      and (${iso(query.from)}::timestamptz is null or created_at >= ${iso(query.from)})
      and (${iso(query.to)}::timestamptz is null or created_at < ${iso(query.to)})
    order by created_at, id limit ${query.limit}
  `);
  let balanceNanos = openingNanos;
  const entries = rows.map((row) => {
    const isCredit = row.credit_kind === query.kind;
    const deltaNanos = signOf(query.kind) * (isCredit ? row.amount_nanos : -row.amount_nanos);
    balanceNanos += deltaNanos;
    return {
      id: row.id,
      createdAt: row.created_at,
      counterpart: isCredit ? row.debit_kind : row.credit_kind,
      deltaNanos,
      balanceNanos,
      source: `${row.source_type}:${row.source_id}`,
      position: row.position,
    };
  });
  return { openingNanos, entries };
}

const sumRow = z.object({ nanos: z.bigint() });

/** The balance before the first entry that the query shows. */
async function sumBefore(db: Queries, query: StatementQuery): Promise<bigint> {
  if (query.after === "" && query.from === null) {
    return 0n;
  }
  const { nanos } = await db.one(sql.type(sumRow)`
    select coalesce(sum(
      case when credit_kind = ${query.kind} then amount_nanos else -amount_nanos end
    ), 0)::int8 as nanos
    from ledger_transfers
    where ${ofKind(query)} and (
      not (${afterLast(query)})
      or created_at < ${iso(query.from)}
    )
  `);
  return signOf(query.kind) * nanos;
}

function ofKind({ accountId, mode, kind }: StatementQuery) {
  return sql.fragment`account_id = ${accountId} and mode = ${mode}
    and (debit_kind = ${kind} or credit_kind = ${kind})`;
}

/** Transfers are never removed: the last one of the page before is there to be compared with. */
function afterLast({ accountId, after }: StatementQuery) {
  return after === ""
    ? sql.fragment`true`
    : sql.fragment`(created_at, id) > (
        select last.created_at, last.id from ledger_transfers as last
        where last.account_id = ${accountId} and last.id = ${after}
      )`;
}

function iso(time: Date | null): string | null {
  return time === null ? null : time.toISOString();
}
