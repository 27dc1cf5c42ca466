import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const cursorRow = z.object({ cursor: z.string() });

/** How far the treasury's payments are entered into the ledger. Null: what it held before is not yet. */
export async function findCursor(db: Queries, treasury: string): Promise<string | null> {
  const row = await db.maybeOne(sql.type(cursorRow)`
    select cursor from payment_cursors where source = ${sourceOf(treasury)}
  `);
  return row?.cursor ?? null;
}

/** Lock the cursor. False when it stands somewhere else by now. */
export async function claimCursor(tx: Tx, treasury: string, cursor: string): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(cursorRow)`
    select cursor from payment_cursors where source = ${sourceOf(treasury)} for update
  `);
  return row?.cursor === cursor;
}

/** Set the cursor past what is entered. */
export async function updateCursor(tx: Tx, treasury: string, cursor: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    update payment_cursors set cursor = ${cursor} where source = ${sourceOf(treasury)}
  `);
}

/** Insert the first cursor. One that is there stays. */
export async function insertCursor(tx: Tx, treasury: string, cursor: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into payment_cursors (source, cursor) values (${sourceOf(treasury)}, ${cursor})
    on conflict do nothing
  `);
}

/** Another treasury has payments of its own. */
function sourceOf(treasury: string): string {
  return `stellar:${treasury}`;
}
