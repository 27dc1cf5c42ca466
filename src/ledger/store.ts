import assert from "node:assert";
import { sql } from "slonik";
import { z } from "zod";
import { briefHold } from "../db/brief-hold.ts";
import { type Column, unnestColumns } from "../db/columns.ts";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";

/** The platform's own account: fees, promotion and the treasury are its money. */
export const platformAccountId = "acc_00000000000000000000000000";

/**
 * The kinds of money of one account.
 *
 * Held for somebody (credits cover debits): consumer, lease_escrow, payable, in_flight, platform_fee,
 * treasury_equity, refund_payable. Owed, spent, or on the chain (debits cover credits): promotion_expense, chain,
 * consumer_receivable, developer_receivable. On its way to another account: clearing.
 */
export type Kind =
  | "consumer"
  | "lease_escrow"
  | "payable"
  | "in_flight"
  | "platform_fee"
  | "treasury_equity"
  | "refund_payable"
  | "promotion_expense"
  | "chain"
  | "consumer_receivable"
  | "developer_receivable"
  | "clearing";

/** Whether money is real. */
export type Mode = "live" | "test";

/** Money moving between two kinds of one account. */
export interface Transfer {
  accountId: string;
  mode: Mode;
  debit: Kind;
  credit: Kind;
  amountNanos: bigint;
  /** What caused it. The same cause moves the same two kinds once, however often it is posted. */
  source: { type: string; id: string };
  /** The journal's position that it counts from. Unset: what is durable now. */
  position?: bigint;
}

/** Money moving from one account to another: one transfer on either side, through clearing. */
export function between(
  from: { accountId: string; kind: Kind },
  to: { accountId: string; kind: Kind },
  rest: Pick<Transfer, "mode" | "amountNanos" | "source">,
): Transfer[] {
  return [
    { ...rest, accountId: from.accountId, debit: from.kind, credit: "clearing" },
    { ...rest, accountId: to.accountId, debit: "clearing", credit: to.kind },
  ];
}

/** One kind of an account's money. */
export type BalanceKey = Pick<Transfer, "accountId" | "mode"> & { kind: Kind };

/** Thrown when a balance does not cover a transfer. The transaction cannot go on. */
export const coverConstraint = "ledger_accounts_covered";

/**
 * Post transfers, and move the balances. A transfer whose cause was posted before moves nothing. Of those that a
 * consumer sees either all are posted before, or none: each says what is there after those before it.
 *
 * Returns the posted ones' number. Throws CheckIntegrityConstraintViolationError, with constraint
 * `ledger_accounts_covered`, when a balance does not cover them.
 */
export async function postTransfers(tx: Tx, transfers: Transfer[], now: Date): Promise<number> {
  const moving = distinct(transfers.filter(({ amountNanos }) => amountNanos !== 0n));
  if (moving.length === 0) {
    return 0;
  }
  for (const { amountNanos } of moving) {
    assert(amountNanos > 0n, "Cannot post a transfer: its amount is negative");
  }
  const posted = await insertTransfers(tx, moving, now);
  assert(
    posted.length === moving.length || !posted.some((row) => row.is_shown),
    "Cannot post transfers: some of them were posted before",
  );
  const moves = sumMoves(posted);
  if (posted.some((row) => !row.has_balances)) {
    await insertMissingAccounts(tx, moves);
  }
  await moveBalances(tx, moves);
  return posted.length;
}

/** Of transfers with one cause the first. */
function distinct(transfers: Transfer[]): Transfer[] {
  const causes = new Set<string>();
  return transfers.filter(({ accountId, mode, debit, credit, source }) => {
    const cause = [accountId, mode, debit, credit, source.type, source.id].join(" ");
    return causes.size < causes.add(cause).size;
  });
}

const lockedRow = z.object({
  account_id: z.string(),
  kind: z.string(),
  mode: z.enum(["live", "test"]),
  held_nanos: z.bigint(),
});

/**
 * The order in which balances are locked, so that two postings cannot wait for each other. What many earn on comes
 * last: a posting may lock the others long before.
 */
const lockOrder = sql.fragment`
  kind in ('clearing', 'payable', 'platform_fee'), account_id, kind, mode
`;

/**
 * Lock balances, for a posting whose amounts depend on what is there. Returns credits less debits.
 *
 * They are held no longer than 2 s after a statement when the process is stopped. Call it once, before anything else
 * locks a balance. Name every balance that the posting may move; those of the kinds clearing, payable and platform_fee
 * may be left to the posting, when it is the only one of its transaction.
 */
export async function lockBalances(
  tx: Tx,
  keys: BalanceKey[],
): Promise<(key: BalanceKey) => bigint> {
  const each = [...new Map(keys.map((key) => [nameOf(key), key])).values()];
  let locked = await lockPresent(tx, each);
  if (locked.length < each.length) {
    await insertMissingAccounts(tx, each);
    locked = await lockPresent(tx, each);
  }
  const held = new Map(
    locked.map(({ account_id: accountId, kind, mode, held_nanos }) => [
      nameOf({ accountId, kind, mode }),
      held_nanos,
    ]),
  );
  return (key) => held.get(nameOf(key)) ?? 0n;
}

/** Lock balances, or none of them if one is not there: it has to be inserted first, to be locked in the order. */
function lockPresent(
  tx: Tx,
  keys: readonly MoneyKey[],
): Promise<readonly z.infer<typeof lockedRow>[]> {
  return tx.any(sql.prepared("lock_balances", lockedRow)`
    with key as (
      select * from ${unnestColumns(keys, keyColumns)} as key (account_id, kind, mode)
    )
    select account_id, kind, mode, credits_nanos - debits_nanos as held_nanos, ${briefHold}
    from ledger_accounts
    where (account_id, kind, mode) in (select * from key)
      and (select count(*) from key join ledger_accounts using (account_id, kind, mode))
        = ${keys.length}
    order by ${lockOrder} for update of ledger_accounts
  `);
}

function nameOf({ accountId, kind, mode }: MoneyKey): string {
  return `${accountId} ${kind} ${mode}`;
}

type MoneyKey = { accountId: string; kind: string; mode: Mode };

const keyColumns: Column<MoneyKey>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ kind }) => kind },
  { type: "text", of: ({ mode }) => mode },
];

const postedRow = z.object({
  account_id: z.string(),
  mode: z.enum(["live", "test"]),
  debit_kind: z.string(),
  credit_kind: z.string(),
  amount_nanos: z.bigint(),
  /** Whether both balances that it moves are there. */
  has_balances: z.boolean(),
  is_shown: z.boolean(),
});

type Posted = z.infer<typeof postedRow>;

/** What an account has: what is set aside for calls is not spent yet. */
const ownKinds = sql.fragment`('consumer', 'lease_escrow')`;

/** The transfers that a consumer sees. What leases set aside and give back is not among them. */
const isShown = sql.fragment`(
  source_type in (
    'grant', 'usage', 'purchase', 'expiry', 'refund', 'adjustment', 'debt_recovery', 'correction'
  ) and (
    debit_kind in ('consumer', 'lease_escrow', 'consumer_receivable')
    or credit_kind in ('consumer', 'consumer_receivable')
  )
)`;

/**
 * In one order, so that two postings of the same causes cannot wait for each other.
 *
 * Each that a consumer sees says what the account has after it. Whoever posts such a transfer has locked a balance
 * that everybody locks who changes what the account has.
 */
async function insertTransfers(
  tx: Tx,
  transfers: Transfer[],
  now: Date,
): Promise<readonly Posted[]> {
  const rows = transfers.map(
    ({ accountId, mode, debit, credit, amountNanos, source, position }) => [
      accountId,
      newId("trf", now),
      mode,
      debit,
      credit,
      amountNanos.toString(),
      source.type,
      source.id,
      now.toISOString(),
      position?.toString() ?? null,
    ],
  );
  return tx.any(sql.prepared("insert_transfers", postedRow)`
    insert into ledger_transfers as posted (
      account_id, id, mode, debit_kind, credit_kind, amount_nanos, source_type, source_id, created_at,
      position, balance_nanos
    )
    select account_id, id, mode, debit_kind, credit_kind, amount_nanos, source_type, source_id,
      created_at, coalesce(position, callora_journal_position()),
      case when ${isShown} then (
        select coalesce(sum(credits_nanos - debits_nanos), 0) from ledger_accounts as own
        where own.account_id = transfer.account_id and own.mode = transfer.mode
          and kind in ${ownKinds}
      ) + sum(
        case when credit_kind in ${ownKinds} then amount_nanos else 0 end
        - case when debit_kind in ${ownKinds} then amount_nanos else 0 end
      ) over (partition by account_id, mode order by id) end
    from ${sql.unnest(rows, [
      "text",
      "text",
      "text",
      "text",
      "text",
      "int8",
      "text",
      "text",
      "timestamptz",
      "int8",
    ])} as transfer (
      account_id, id, mode, debit_kind, credit_kind, amount_nanos, source_type, source_id, created_at,
      position
    )
    order by account_id, source_type, source_id, mode, debit_kind, credit_kind
    on conflict (account_id, source_type, source_id, mode, debit_kind, credit_kind) do nothing
    returning account_id, mode, debit_kind, credit_kind, amount_nanos, (
      select count(*) from ledger_accounts as there
      where there.account_id = posted.account_id and there.mode = posted.mode
        and there.kind in (posted.debit_kind, posted.credit_kind)
    ) = 2 as has_balances, balance_nanos is not null as is_shown
  `);
}

interface Move extends MoneyKey {
  debits: bigint;
  credits: bigint;
}

function sumMoves(posted: readonly Posted[]): Move[] {
  const moves = new Map<string, Move>();
  function move({ account_id: accountId, mode }: Posted, kind: string): Move {
    const key = { accountId, kind, mode };
    const known = moves.get(nameOf(key)) ?? { ...key, debits: 0n, credits: 0n };
    moves.set(nameOf(key), known);
    return known;
  }
  for (const row of posted) {
    move(row, row.debit_kind).debits += row.amount_nanos;
    move(row, row.credit_kind).credits += row.amount_nanos;
  }
  return [...moves.values()];
}

/** In the order in which they are locked. Most are there: to look costs less than to try and insert them. */
async function insertMissingAccounts(tx: Tx, keys: readonly MoneyKey[]): Promise<void> {
  await tx.query(sql.prepared("insert_missing_balances", nothing)`
    insert into ledger_accounts (account_id, kind, mode)
    select account_id, kind, mode
    from ${unnestColumns(keys, keyColumns)} as key (account_id, kind, mode)
    where not exists (
      select from ledger_accounts as there
      where there.account_id = key.account_id and there.kind = key.kind and there.mode = key.mode
    )
    order by ${lockOrder}
    on conflict do nothing
  `);
}

const moveColumns: Column<Move>[] = [
  ...keyColumns,
  { type: "int8", of: ({ debits }) => debits },
  { type: "int8", of: ({ credits }) => credits },
];

/** Lock in one order, so that two postings cannot wait for each other. */
async function moveBalances(tx: Tx, moves: readonly Move[]): Promise<void> {
  await tx.query(sql.prepared("move_balances", nothing)`
    with moved as (
      select * from ${unnestColumns(moves, moveColumns)}
        as moved (account_id, kind, mode, debits, credits)
    ), locked as (
      select account_id, kind, mode, moved.debits, moved.credits
      from ledger_accounts join moved using (account_id, kind, mode)
      order by ${lockOrder}
      for update of ledger_accounts
    )
    update ledger_accounts as balance
    set debits_nanos = debits_nanos + locked.debits, credits_nanos = credits_nanos + locked.credits
    from locked
    where balance.account_id = locked.account_id
      and balance.kind = locked.kind and balance.mode = locked.mode
  `);
}

const balanceRow = z.object({ debits_nanos: z.bigint(), credits_nanos: z.bigint() });

/** What was ever debited and credited to one kind of an account's money. Zero when nothing was. */
export async function getBalance(
  db: Queries,
  { accountId, kind, mode }: { accountId: string; kind: Kind; mode: Mode },
): Promise<{ debitsNanos: bigint; creditsNanos: bigint }> {
  const row = await db.maybeOne(sql.type(balanceRow)`
    select debits_nanos, credits_nanos from ledger_accounts
    where account_id = ${accountId} and kind = ${kind} and mode = ${mode}
  `);
  return { debitsNanos: row?.debits_nanos ?? 0n, creditsNanos: row?.credits_nanos ?? 0n };
}
