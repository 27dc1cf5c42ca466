import { randomUUID } from "node:crypto";
import type { Database } from "../../src/db/database.ts";
import { between, type Mode, platformAccountId, postTransfers } from "../../src/ledger/store.ts";

/** Promotional credit for an account. */
export async function grant(
  db: Pick<Database, "systemTransaction">,
  accountId: string,
  amountNanos: bigint,
  mode: Mode = "live",
): Promise<void> {
  const source = { type: "grant", id: randomUUID() };
  const from = { accountId: platformAccountId, kind: "promotion_expense" } as const;
  const to = { accountId, kind: "consumer" } as const;
  await db.systemTransaction((tx) =>
    postTransfers(tx, between(from, to, { mode, amountNanos, source }), new Date()),
  );
}
