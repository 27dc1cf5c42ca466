import { addCredit, priorityDefault, promotionMoney } from "../../src/credits/credit.ts";
import type { Database } from "../../src/db/database.ts";
import type { Mode } from "../../src/ledger/store.ts";
import { newId } from "../../src/lib/id.ts";

/** Promotional credit for an account. */
export async function grant(
  db: Pick<Database, "systemTransaction">,
  accountId: string,
  amountNanos: bigint,
  mode: Mode = "live",
): Promise<void> {
  const now = new Date();
  const grantId = newId("grt", now);
  const credit = {
    accountId,
    mode,
    grantId,
    kind: "promotion",
    amountNanos,
    from: promotionMoney,
    priority: priorityDefault,
    expireAt: null,
    purchaseId: "",
    note: "",
  } as const;
  await db.systemTransaction((tx) => addCredit(tx, credit, now));
}
