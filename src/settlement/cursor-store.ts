import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { StellarNetwork } from "../stellar/network.ts";

/** Whose payments are read, and on which network. */
export type TreasuryOf = Pick<StellarNetwork, "treasury" | "passphrase">;

const cursorRow = z.object({ cursor: z.string() });

/** How far the treasury's payments are entered into the ledger. Null: what it held before is not yet. */
export async function findCursor(db: Queries, of: TreasuryOf): Promise<string | null> {
  const row = await db.maybeOne(sql.type(cursorRow)`
    select cursor from payment_cursors where source = ${sourceOf(of)}
  `);
  return row?.cursor ?? null;
}

/** Lock the cursor. False when it stands somewhere else by now. */
export async function claimCursor(tx: Tx, of: TreasuryOf, cursor: string): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(cursorRow)`
    select cursor from payment_cursors where source = ${sourceOf(of)} for update
  `);
  return row?.cursor === cursor;
}

/** Set the cursor past what is entered. */
export async function updateCursor(tx: Tx, of: TreasuryOf, cursor: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    update payment_cursors set cursor = ${cursor} where source = ${sourceOf(of)}
  `);
}

/** Insert the first cursor. One that is there stays. */
export async function insertCursor(tx: Tx, of: TreasuryOf, cursor: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into payment_cursors (source, cursor) values (${sourceOf(of)}, ${cursor})
    on conflict do nothing
  `);
}

/** Another treasury has payments of its own, and so has another network. */
function sourceOf({ treasury, passphrase }: TreasuryOf): string {
  return `stellar:${treasury.publicKey()}:${passphrase}`;
}
