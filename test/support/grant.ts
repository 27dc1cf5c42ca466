import { randomUUID } from "node:crypto";
import type { Database } from "../../src/db/database.ts";
import { postGrant } from "../../src/ledger/grant.ts";
import type { Mode } from "../../src/ledger/store.ts";

/** Promotional credit for an account. */
export async function grant(
  db: Pick<Database, "systemTransaction">,
  accountId: string,
  amountNanos: bigint,
  mode: Mode = "live",
): Promise<void> {
  const id = randomUUID();
  await db.systemTransaction((tx) =>
    postGrant(tx, { id, accountId, mode, amountNanos }, new Date()),
  );
}
