import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import type { ConfirmedPayment } from "./purchase.ts";

const purchaseRow = z.object({
  account_id: z.string(),
  id: z.string(),
  source: z.string(),
  plan_id: z.string(),
  price_nanos: z.bigint(),
  credit_nanos: z.bigint(),
  bonus_nanos: z.bigint(),
  state: z.enum(["pending", "confirmed"]),
  paid_nanos: z.bigint(),
  refunded_nanos: z.bigint(),
  grant_id: z.string(),
  created_at: z.number(),
  expire_at: z.number(),
  confirmed_at: z.number().nullable(),
});

/** Credit that somebody buys. */
export type PurchaseRow = z.infer<typeof purchaseRow>;

const purchaseColumns = sql.fragment`
  account_id, id, source, plan_id, price_nanos, credit_nanos, bonus_nanos, state, paid_nanos,
  refunded_nanos, grant_id, created_at, expire_at, confirmed_at
`;

/** Insert a purchase that is not paid yet. */
export function insertPurchase(
  tx: Tx,
  purchase: Pick<
    PurchaseRow,
    "account_id" | "id" | "source" | "plan_id" | "price_nanos" | "credit_nanos" | "bonus_nanos"
  >,
  { now, expireAt }: { now: Date; expireAt: Date },
): Promise<PurchaseRow> {
  return tx.one(sql.type(purchaseRow)`
    insert into credit_purchases (
      account_id, id, source, plan_id, price_nanos, credit_nanos, bonus_nanos, created_at, expire_at
    )
    values (
      ${purchase.account_id}, ${purchase.id}, ${purchase.source}, ${purchase.plan_id},
      ${purchase.price_nanos}, ${purchase.credit_nanos}, ${purchase.bonus_nanos},
      ${now.toISOString()}, ${expireAt.toISOString()}
    )
    returning ${purchaseColumns}
  `);
}

/** Write down whose a purchase is. */
export async function insertPurchaseEntry(
  tx: Tx,
  { accountId, purchaseId }: { accountId: string; purchaseId: string },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into purchase_directory (purchase_id, account_id) values (${purchaseId}, ${accountId})
  `);
}

/** Find one of the account's purchases. */
export function findPurchase(
  db: Queries,
  { accountId, id }: { accountId: string; id: string },
): Promise<PurchaseRow | null> {
  return db.maybeOne(sql.type(purchaseRow)`
    select ${purchaseColumns} from credit_purchases where account_id = ${accountId} and id = ${id}
  `);
}

const ownerRow = z.object({ account_id: z.string() });

/** Lock a purchase, whoever's it is. Null when there is none. */
export async function lockPurchase(tx: Tx, id: string): Promise<PurchaseRow | null> {
  const owner = await tx.maybeOne(sql.type(ownerRow)`
    select account_id from purchase_directory where purchase_id = ${id}
  `);
  if (owner === null) {
    return null;
  }
  return tx.maybeOne(sql.type(purchaseRow)`
    select ${purchaseColumns} from credit_purchases
    where account_id = ${owner.account_id} and id = ${id} for update
  `);
}

/** Note what was paid, and the first grant that it became. */
export async function notePaid(
  tx: Tx,
  { account_id: accountId, id }: PurchaseRow,
  { amountNanos, grantId, at }: { amountNanos: bigint; grantId: string; at: Date },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update credit_purchases set
      state = 'confirmed',
      paid_nanos = paid_nanos + ${amountNanos},
      grant_id = case grant_id when '' then ${grantId} else grant_id end,
      confirmed_at = coalesce(confirmed_at, ${at.toISOString()})
    where account_id = ${accountId} and id = ${id}
  `);
}

/** Note what is to be paid back. */
export function noteRefunded(
  tx: Tx,
  { account_id: accountId, id }: PurchaseRow,
  amountNanos: bigint,
): Promise<PurchaseRow> {
  return tx.one(sql.type(purchaseRow)`
    update credit_purchases set refunded_nanos = refunded_nanos + ${amountNanos}
    where account_id = ${accountId} and id = ${id}
    returning ${purchaseColumns}
  `);
}

const eventRow = z.object({ event_id: z.string() });

/** Write a payment down. False when it was before. */
export async function insertPayment(
  tx: Tx,
  { payment, purchase }: { payment: ConfirmedPayment; purchase: PurchaseRow | null },
  now: Date,
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(eventRow)`
    insert into payment_events (
      id, source, event_id, account_id, purchase_id, amount_nanos, detail, paid_at
    )
    values (
      ${newId("dep", now)},
      ${payment.source}, ${payment.eventId}, ${purchase?.account_id ?? ""}, ${purchase?.id ?? ""},
      ${payment.amountNanos}, ${payment.detail}, ${payment.at.toISOString()}
    )
    on conflict (source, event_id) do nothing
    returning event_id
  `);
  return row !== null;
}
