import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";

const alertRow = z.object({ threshold_nanos: z.bigint(), told_at: z.number().nullable() });

/** Below which balance an account is told, and when it last was. */
export type AlertRow = z.infer<typeof alertRow>;

/** Find the alert of an account's balance. */
export function findAlert(
  db: Queries,
  { accountId, mode }: { accountId: string; mode: Mode },
): Promise<AlertRow | null> {
  return db.maybeOne(sql.type(alertRow)`
    select threshold_nanos, told_at from balance_alerts
    where account_id = ${accountId} and mode = ${mode}
  `);
}

/** Set below which balance an account is told. It is told anew, also when it was told of another one. */
export function putAlert(
  tx: Tx,
  { accountId, mode, thresholdNanos }: { accountId: string; mode: Mode; thresholdNanos: bigint },
): Promise<AlertRow> {
  return tx.one(sql.type(alertRow)`
    insert into balance_alerts (account_id, mode, threshold_nanos)
    values (${accountId}, ${mode}, ${thresholdNanos})
    on conflict (account_id, mode)
    do update set threshold_nanos = excluded.threshold_nanos, armed = true
    returning threshold_nanos, told_at
  `);
}

/** Let an account be told again of a low balance, once it has risen above the threshold. */
export async function rearmAlert(
  tx: Tx,
  { accountId, mode, balanceNanos }: { accountId: string; mode: Mode; balanceNanos: bigint },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update balance_alerts set armed = true
    where account_id = ${accountId} and mode = ${mode}
      and not armed and threshold_nanos <= ${balanceNanos}
  `);
}

const lowRow = z.object({
  account_id: z.string(),
  mode: z.enum(["live", "test"]),
  threshold_nanos: z.bigint(),
  balance_nanos: z.bigint(),
});

/** A balance that has fallen below its threshold. */
export interface LowBalance {
  accountId: string;
  topic: "credits.low_balance";
  payload: { mode: Mode; balanceNanos: string; thresholdNanos: string };
}

/** What an account has: what is set aside for calls is not spent yet. */
const balance = sql.fragment`(
  select coalesce(sum(credits_nanos - debits_nanos), 0)::int8 from ledger_accounts
  where ledger_accounts.account_id = alert.account_id and ledger_accounts.mode = alert.mode
    and kind in ('consumer', 'lease_escrow')
)`;

const lowMax = 100;

/**
 * Tell up to 100 accounts that their balance is below their threshold, each once until it has risen again. True: there
 * may be more.
 *
 * It reads the balances of all accounts that have an alert: the money's way knows nothing of it.
 */
export async function tellLowBalances(
  tx: Tx,
  tell: (low: LowBalance) => Promise<void>,
): Promise<boolean> {
  await tx.query(sql.type(nothing)`
    with risen as (
      select account_id, mode from balance_alerts as alert
      where not armed and threshold_nanos <= ${balance}
      for update skip locked
    )
    update balance_alerts as alert set armed = true
    from risen where alert.account_id = risen.account_id and alert.mode = risen.mode
  `);
  const rows = await tx.any(sql.type(lowRow)`
    select account_id, mode, threshold_nanos, ${balance} as balance_nanos
    from balance_alerts as alert
    where armed and threshold_nanos > 0 and ${balance} < threshold_nanos
    order by account_id, mode limit ${lowMax} for update skip locked
  `);
  for (const row of rows) {
    const { account_id: accountId, mode } = row;
    const [balanceNanos, thresholdNanos] = [row.balance_nanos, row.threshold_nanos].map(String);
    await tx.query(sql.type(nothing)`
      update balance_alerts set armed = false, told_at = now()
      where account_id = ${accountId} and mode = ${mode}
    `);
    const payload = { mode, balanceNanos: `${balanceNanos}`, thresholdNanos: `${thresholdNanos}` };
    await tell({ accountId, topic: "credits.low_balance", payload });
  }
  return rows.length === lowMax;
}
