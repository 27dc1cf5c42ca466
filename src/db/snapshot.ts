import { sql } from "slonik";
import { nothing, type Tx } from "./pool.ts";

/** Let a transaction show one state of the database in all its statements. Call it before the first of them. */
export async function readSnapshot(tx: Tx): Promise<void> {
  await tx.query(sql.type(nothing)`set transaction isolation level repeatable read, read only`);
}
