import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import type { NewCredit } from "./credit.ts";

/** How grants are read. */
export const grantRow = z.object({
  account_id: z.string(),
  id: z.string(),
  mode: z.enum(["live", "test"]),
  kind: z.enum(["promotion", "purchase", "adjustment", "test"]),
  amount_nanos: z.bigint(),
  burned_nanos: z.bigint(),
  returned_nanos: z.bigint(),
  priority: z.number(),
  expire_at: z.number().nullable(),
  purchase_id: z.string(),
  note: z.string(),
  created_at: z.number(),
});

/** Credit that came in, and what became of it. */
export type GrantRow = z.infer<typeof grantRow>;

/** The columns of a grant. */
export const grantColumns = sql.fragment`
  account_id, id, mode, kind, amount_nanos, burned_nanos, returned_nanos, priority, expire_at,
  purchase_id, note, created_at
`;

/** The order in which grants burn. */
const burnOrder = sql.fragment`priority, expire_at, created_at, id`;

/** What is left of a grant. */
export function leftOf({
  amount_nanos,
  burned_nanos,
  returned_nanos,
}: Pick<GrantRow, "amount_nanos" | "burned_nanos" | "returned_nanos">): bigint {
  return amount_nanos - burned_nanos - returned_nanos;
}

/** Insert grants. `repaid` tells of each what of it paid a debt: it is burned already. */
export async function insertGrants(
  tx: Tx,
  { credits, repaid, now }: { credits: readonly NewCredit[]; repaid: readonly bigint[]; now: Date },
): Promise<void> {
  const rows = credits.map((credit, index) => [
    credit.accountId,
    credit.grantId,
    credit.mode,
    credit.kind,
    credit.amountNanos.toString(),
    (repaid[index] ?? 0n).toString(),
    credit.priority,
    credit.expireAt?.toISOString() ?? null,
    credit.purchaseId,
    credit.note,
  ]);
  await tx.query(sql.type(nothing)`
    insert into credit_grants (
      account_id, id, mode, kind, amount_nanos, burned_nanos, priority, expire_at, purchase_id,
      note, state, created_at
    )
    select credit.*, case when amount_nanos = burned_nanos then 'closed' else 'open' end,
      ${now.toISOString()}
    from ${sql.unnest(rows, [
      "text",
      "text",
      "text",
      "text",
      "int8",
      "int8",
      "int4",
      "timestamptz",
      "text",
      "text",
    ])} as credit (
      account_id, id, mode, kind, amount_nanos, burned_nanos, priority, expire_at, purchase_id, note
    )
  `);
}

/** Get one of the account's grants. */
export function getGrant(
  db: Queries,
  { accountId, id }: { accountId: string; id: string },
): Promise<GrantRow> {
  return db.one(sql.type(grantRow)`
    select ${grantColumns} from credit_grants where account_id = ${accountId} and id = ${id}
  `);
}

/** List grants in the order in which they burn, after the given one (empty: from the first). */
export function listGrants(
  db: Queries,
  query: {
    accountId: string;
    mode: Mode;
    withUsed: boolean;
    after: string;
    limit: number;
  },
): Promise<readonly GrantRow[]> {
  return db.any(sql.type(grantRow)`
    select ${grantColumns} from credit_grants
    where account_id = ${query.accountId} and mode = ${query.mode}
      and (${query.withUsed} or state <> 'closed')
      and (${query.after} = '' or (
        priority, coalesce(expire_at, 'infinity'), created_at, id
      ) > (
        select last.priority, coalesce(last.expire_at, 'infinity'), last.created_at, last.id
        from credit_grants as last
        where last.account_id = ${query.accountId} and last.id = ${query.after}
      ))
    order by ${burnOrder} limit ${query.limit}
  `);
}

/** Whose grants burn, and from when on they must not have expired. */
export interface Purse {
  accountId: string;
  mode: Mode;
  since: Date;
}

/** Lock each purse's next grants in the order in which they burn, but for those that were seen. */
export function lockBurningGrants(
  tx: Tx,
  { purses, seen, limit }: { purses: readonly Purse[]; seen: readonly string[]; limit: number },
): Promise<readonly GrantRow[]> {
  const rows = purses.map(({ accountId, mode, since }) => [accountId, mode, since.toISOString()]);
  return tx.any(sql.prepared("lock_burning_grants", grantRow)`
    select found.*
    from ${sql.unnest(rows, ["text", "text", "timestamptz"])} as purse (account_id, mode, since)
    cross join lateral (
      select ${grantColumns} from credit_grants as credit
      where credit.account_id = purse.account_id and credit.mode = purse.mode
        and state <> 'closed' and (expire_at is null or expire_at > purse.since)
        and id <> all(${sql.array([...seen], "text")})
      order by ${burnOrder} limit ${limit} for no key update
    ) as found
  `);
}

/**
 * Lock an account's next grants that are not used up, but for so many that were seen: what the platform gave first, each
 * kind in the order of burning.
 */
export function lockReturningGrants(
  tx: Tx,
  { accountId, mode, ...page }: { accountId: string; mode: Mode; seen: number; limit: number },
): Promise<readonly GrantRow[]> {
  return tx.any(sql.type(grantRow)`
    select ${grantColumns} from credit_grants
    where account_id = ${accountId} and mode = ${mode} and state <> 'closed'
    order by kind = 'purchase', ${burnOrder} limit ${page.limit} offset ${page.seen}
    for no key update
  `);
}

/** Lock the grants that a purchase became, the oldest first. */
export function lockPurchaseGrants(
  tx: Tx,
  { accountId, purchaseId }: { accountId: string; purchaseId: string },
): Promise<readonly GrantRow[]> {
  return tx.any(sql.type(grantRow)`
    select ${grantColumns} from credit_grants
    where account_id = ${accountId} and purchase_id = ${purchaseId} and state <> 'closed'
    order by created_at, id for no key update
  `);
}

/** Let grants end now. */
export async function endGrants(
  tx: Tx,
  { accountId, ids }: { accountId: string; ids: readonly string[] },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update credit_grants set expire_at = now()
    where account_id = ${accountId} and id = any(${sql.array([...ids], "text")})
  `);
}

const dueRow = z.object({
  account_id: z.string(),
  mode: z.enum(["live", "test"]),
  id: z.string(),
});

/** A grant that is over. */
export type DueRow = z.infer<typeof dueRow>;

/**
 * List grants that have ended, and not after a time if one is given, of which something can be taken: the oldest end
 * first. What has ended only the database's clock says.
 */
export function listDueGrants(
  db: Queries,
  { until, limit }: { until: Date | null; limit: number },
): Promise<readonly DueRow[]> {
  return db.any(sql.type(dueRow)`
    select account_id, mode, id from credit_grants as credit
    where state <> 'closed' and expire_at <= least(now(), ${until?.toISOString() ?? null}::timestamptz) and (
      exists (
        select from ledger_accounts as balance
        where balance.account_id = credit.account_id and balance.mode = credit.mode
          and kind = 'consumer' and credits_nanos > debits_nanos
      )
      or not exists (
        select from ledger_accounts as balance
        where balance.account_id = credit.account_id and balance.mode = credit.mode
          and kind = 'lease_escrow' and credits_nanos > debits_nanos
      )
    )
    order by expire_at limit ${limit}
  `);
}

/** Lock grants that are over and not closed. */
export function lockDueGrants(tx: Tx, due: readonly DueRow[]): Promise<readonly GrantRow[]> {
  const rows = due.map(({ account_id, id }) => [account_id, id]);
  return tx.any(sql.type(grantRow)`
    select ${grantColumns} from credit_grants
    where (account_id, id) in (select * from ${sql.unnest(rows, ["text", "text"])})
      and state <> 'closed'
    order by expire_at, id for no key update
  `);
}

/** What is burned of a grant, and what is returned. */
export interface GrantChange {
  accountId: string;
  id: string;
  burnedNanos: bigint;
  returnedNanos: bigint;
}

/** Change grants, each named once. What nothing is left of is closed, and open again once there is. Lock them first. */
export async function changeGrants(
  tx: Tx,
  { changes, isOver }: { changes: readonly GrantChange[]; isOver: boolean },
): Promise<void> {
  const rows = changes.map(({ accountId, id, burnedNanos, returnedNanos }) => [
    accountId,
    id,
    burnedNanos.toString(),
    returnedNanos.toString(),
  ]);
  await tx.query(sql.prepared("change_grants", nothing)`
    update credit_grants as credit set
      burned_nanos = credit.burned_nanos + change.burned,
      returned_nanos = credit.returned_nanos + change.returned,
      state = case
        when credit.burned_nanos + credit.returned_nanos + change.burned + change.returned
          = credit.amount_nanos then 'closed'
        when ${isOver} then 'expiring'
        when credit.state = 'closed' then 'open'
        else credit.state
      end
    from ${sql.unnest(rows, ["text", "text", "int8", "int8"])}
      as change (account_id, id, burned, returned)
    where credit.account_id = change.account_id and credit.id = change.id
  `);
}

/** A part of an account's charges that burned a grant: from one nano up to another, on the line of all of them. */
export interface Burn {
  accountId: string;
  mode: Mode;
  grantId: string;
  fromNanos: bigint;
  toNanos: bigint;
}

/** Add burns, in order. One that goes on with the same grant where the account's last one ended makes that longer. */
export async function addBurns(tx: Tx, burns: readonly Burn[]): Promise<void> {
  const rows = burns.map(({ accountId, mode, fromNanos, toNanos, grantId }) => [
    accountId,
    mode,
    fromNanos.toString(),
    toNanos.toString(),
    grantId,
  ]);
  await tx.query(sql.prepared("add_grant_burns", nothing)`
    with added as (
      select * from ${sql.unnest(rows, ["text", "text", "int8", "int8", "text"])}
        as added (account_id, mode, from_nanos, to_nanos, grant_id)
    ), extended as (
      update grant_burns as burn set to_nanos = added.to_nanos
      from added
      where burn.account_id = added.account_id and burn.mode = added.mode
        and burn.grant_id = added.grant_id and burn.to_nanos = added.from_nanos
        and burn.from_nanos = (
          select from_nanos from grant_burns as last
          where last.account_id = added.account_id and last.mode = added.mode
            and last.from_nanos < added.from_nanos
          order by from_nanos desc limit 1
        )
      returning added.account_id, added.mode, added.from_nanos
    )
    insert into grant_burns (account_id, mode, from_nanos, to_nanos, grant_id)
    select * from added
    where not exists (
      select from extended
      where extended.account_id = added.account_id and extended.mode = added.mode
        and extended.from_nanos = added.from_nanos
    )
  `);
}

const leftRow = z.object({
  promotional_nanos: z.bigint(),
  next_expire_at: z.number().nullable(),
  next_expire_nanos: z.bigint(),
});

/** What is left of an account's grants: of those that the platform gave, and of those that end next. */
export function sumGrants(
  db: Queries,
  { accountId, mode }: { accountId: string; mode: Mode },
): Promise<z.infer<typeof leftRow>> {
  return db.one(sql.type(leftRow)`
    with open as (
      select kind, expire_at, amount_nanos - burned_nanos - returned_nanos as left_nanos
      from credit_grants
      where account_id = ${accountId} and mode = ${mode} and state <> 'closed'
    )
    select
      coalesce(sum(left_nanos) filter (where kind <> 'purchase'), 0)::int8 as promotional_nanos,
      min(expire_at) as next_expire_at,
      coalesce(sum(left_nanos) filter (
        where expire_at = (select min(expire_at) from open)
      ), 0)::int8 as next_expire_nanos
    from open
  `);
}

/** Write down what was taken back of an account's credit, and why. */
export async function insertReturn(
  tx: Tx,
  given: {
    accountId: string;
    id: string;
    mode: Mode;
    amountNanos: bigint;
    purchaseId: string;
    note: string;
  },
  now: Date,
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into credit_returns (account_id, id, mode, amount_nanos, purchase_id, note, created_at)
    values (
      ${given.accountId}, ${given.id}, ${given.mode}, ${given.amountNanos}, ${given.purchaseId},
      ${given.note}, ${now.toISOString()}
    )
  `);
}
