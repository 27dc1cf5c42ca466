import { sql } from "slonik";
import { nothing, type Tx } from "../db/pool.ts";
import type { Refusal } from "./bisect.ts";
import { asRefusal } from "./refusal.ts";

/** Run work that leaves no trace when it is refused for good, under a savepoint's name. Throws what may pass. */
export async function attempt<T>(
  tx: Tx,
  name: string,
  work: () => Promise<T>,
): Promise<{ done: T } | Refusal> {
  const savepoint = sql.identifier([name]);
  await tx.query(sql.type(nothing)`savepoint ${savepoint}`);
  try {
    const done = await work();
    await tx.query(sql.type(nothing)`release savepoint ${savepoint}`);
    return { done };
  } catch (error) {
    const refusal = asRefusal(error);
    if (refusal === null) {
      throw error;
    }
    await tx.query(sql.type(nothing)`rollback to savepoint ${savepoint}`);
    await tx.query(sql.type(nothing)`release savepoint ${savepoint}`);
    return refusal;
  }
}
