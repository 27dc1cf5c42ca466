import { expect } from "vitest";
import { addCredit, priorityDefault, promotionMoney } from "../../src/credits/credit.ts";
import type { Database } from "../../src/db/database.ts";
import type { Mode } from "../../src/ledger/store.ts";
import { newId } from "../../src/lib/id.ts";
import type { openBooks } from "./books.ts";

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

/** What is left of each grant, by name. */
export async function left(
  books: Awaited<ReturnType<typeof openBooks>>,
  account: string,
): Promise<Record<string, bigint>> {
  const { rows } = await books.superuser.query<{ note: string; nanos: string; state: string }>(
    `select note, amount_nanos - burned_nanos - returned_nanos as nanos, state from credit_grants
     where account_id = $1`,
    [account],
  );
  for (const { nanos, state } of rows) {
    expect(state === "closed").toBe(nanos === "0");
  }
  return Object.fromEntries(rows.map(({ note, nanos }) => [note, BigInt(nanos)]));
}
