import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";
import { lockBalances, postTransfers } from "../ledger/store.ts";

/** Developers whose debts one run looks at. */
const debtorsMax = 10_000;

const debtorRow = z.object({ account_id: z.string() });

/** List developers who owe something that they were paid for usage that was taken back, and are to be paid. */
function listDebtors(db: Queries): Promise<readonly z.infer<typeof debtorRow>[]> {
  return db.any(sql.type(debtorRow)`
    select debt.account_id from ledger_accounts as debt
    join ledger_accounts as payable
      on payable.account_id = debt.account_id and payable.mode = debt.mode
        and payable.kind = 'payable' and payable.credits_nanos > payable.debits_nanos
    where debt.kind = 'developer_receivable' and debt.mode = 'live'
      and debt.debits_nanos > debt.credits_nanos
    order by debt.account_id limit ${debtorsMax}
  `);
}

/** Take what developers owe from what is payable to them, before a run pays it out. */
export async function recoverDebts(tx: Tx, settlementId: string, now: Date): Promise<void> {
  const debtors = await listDebtors(tx);
  if (debtors.length === 0) {
    return;
  }
  const keyOf = (accountId: string, kind: "payable" | "developer_receivable") => ({
    accountId,
    kind,
    mode: "live" as const,
  });
  const heldBy = await lockBalances(
    tx,
    debtors.flatMap(({ account_id }) => [
      keyOf(account_id, "developer_receivable"),
      keyOf(account_id, "payable"),
    ]),
  );
  const transfers = debtors.map(({ account_id: accountId }) => {
    const owed = -heldBy(keyOf(accountId, "developer_receivable"));
    const payable = heldBy(keyOf(accountId, "payable"));
    return {
      accountId,
      mode: "live" as const,
      debit: "payable" as const,
      credit: "developer_receivable" as const,
      amountNanos: owed < payable ? owed : payable,
      source: { type: "debt_recovery", id: settlementId },
    };
  });
  await postTransfers(
    tx,
    transfers.filter(({ amountNanos }) => amountNanos > 0n),
    now,
  );
}
