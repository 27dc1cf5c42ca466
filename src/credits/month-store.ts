import { sql } from "slonik";
import { type Column, unnestColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";

/** What moves an account's balance besides charges: what is granted and bought comes in, as is what is given. */
export interface CreditMove {
  accountId: string;
  mode: Mode;
  what: "granted" | "given" | "taken" | "expired" | "refunded";
  nanos: bigint;
}

const columns: Column<CreditMove>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ mode }) => mode },
  { type: "text", of: ({ what }) => what },
  { type: "int8", of: ({ nanos }) => nanos },
];

/** Add to what moved in the present UTC month. Every posting that moves such credit does so: balances and invoices say it. */
export async function addToMonths(tx: Tx, moves: readonly CreditMove[], now: Date): Promise<void> {
  const moving = moves.filter(({ nanos }) => nanos > 0n);
  if (moving.length === 0) {
    return;
  }
  const month = `${now.toISOString().slice(0, 7)}-01`;
  await tx.query(sql.type(nothing)`
    insert into credit_months as total (
      account_id, mode, month, granted_nanos, given_nanos, taken_nanos, expired_nanos, refunded_nanos
    )
    select account_id, mode, ${month}::date,
      coalesce(sum(nanos) filter (where what = 'granted'), 0),
      coalesce(sum(nanos) filter (where what = 'given'), 0),
      coalesce(sum(nanos) filter (where what = 'taken'), 0),
      coalesce(sum(nanos) filter (where what = 'expired'), 0),
      coalesce(sum(nanos) filter (where what = 'refunded'), 0)
    from ${unnestColumns(moving, columns)} as move (account_id, mode, what, nanos)
    group by account_id, mode order by account_id, mode
    on conflict (account_id, mode, month) do update set
      granted_nanos = total.granted_nanos + excluded.granted_nanos,
      given_nanos = total.given_nanos + excluded.given_nanos,
      taken_nanos = total.taken_nanos + excluded.taken_nanos,
      expired_nanos = total.expired_nanos + excluded.expired_nanos,
      refunded_nanos = total.refunded_nanos + excluded.refunded_nanos
  `);
}
