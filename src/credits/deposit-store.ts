import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const depositRow = z.object({
  id: z.string(),
  source: z.string(),
  event_id: z.string(),
  account_id: z.string(),
  purchase_id: z.string(),
  amount_nanos: z.bigint(),
  detail: z.string(),
  created_at: z.number(),
  paid_at: z.number(),
  assigned_at: z.number().nullable(),
});

/** A payment that named no purchase. */
export type DepositRow = z.infer<typeof depositRow>;

const depositColumns = sql.fragment`
  id, source, event_id, account_id, purchase_id, amount_nanos, detail, created_at, paid_at,
  assigned_at
`;

/** List a page of the payments that named no purchase, newest first. */
export function listDeposits(
  db: Queries,
  { withAssigned, after, limit }: { withAssigned: boolean; after: string; limit: number },
): Promise<readonly DepositRow[]> {
  return db.any(sql.type(depositRow)`
    select ${depositColumns} from payment_events
    where (account_id = '' or assigned_at is not null)
      and (${withAssigned} or account_id = '')
      and (${after} = '' or id < ${after})
    order by id desc
    limit ${limit}
  `);
}

/** Lock a payment that named no purchase. Null when there is none. */
export function lockDeposit(tx: Tx, id: string): Promise<DepositRow | null> {
  return tx.maybeOne(sql.type(depositRow)`
    select ${depositColumns} from payment_events
    where id = ${id} and (account_id = '' or assigned_at is not null)
    for update
  `);
}

/** Note whose a payment is, and what it pays for. */
export async function noteAssigned(
  tx: Tx,
  { id, accountId, purchaseId }: { id: string; accountId: string; purchaseId: string },
  now: Date,
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update payment_events set
      account_id = ${accountId}, purchase_id = ${purchaseId}, assigned_at = ${now.toISOString()}
    where id = ${id}
  `);
}
