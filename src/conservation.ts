import { sql } from "slonik";
import { z } from "zod";
import type { Database } from "./db/database.ts";
import type { Tx } from "./db/pool.ts";
import { readSnapshot } from "./db/snapshot.ts";
import { findDifference } from "./difference.ts";
import type { Mode } from "./ledger/store.ts";
import { nanosPerStroop } from "./lib/money.ts";
import { getWatermark } from "./metering/journal.ts";
import { rerate } from "./metering/rerate.ts";
import type { Difference } from "./metering/rerate-event.ts";
import { findCursor } from "./settlement/cursor-store.ts";
import { isDeposit } from "./settlement/deposits.ts";
import { treasuryStroops } from "./settlement/treasury.ts";
import type { StellarNetwork } from "./stellar/network.ts";

/** An equation between two sums that were found apart. */
export interface Check {
  name: string;
  leftNanos: bigint;
  rightNanos: bigint;
  ok: boolean;
}

/** What was compared, and up to where the journal was applied then. */
export interface Conservation {
  ok: boolean;
  checks: Check[];
  /** The first row that is not what the journal, or what it was made of, gives. Null: all are. */
  difference: Difference | null;
  watermark: bigint;
}

/** Pages of 200 payments that are read from the chain at most. */
const paymentPagesMax = 500;

/** A payout may reach the chain between the two looks; then another pair is taken. */
const looksMax = 3;

/**
 * Check that no money was made or lost.
 *
 * The same sums are found three ways: from the ledger's transfers, from the journal, and from the chain.
 */
export async function checkConservation(deps: Deps): Promise<Conservation> {
  for (let look = 1; ; look++) {
    const result = await checkOnce(deps);
    if (result.ok || look === looksMax) {
      return result;
    }
  }
}

interface Deps {
  db: Database;
  network: StellarNetwork;
}

async function checkOnce({ db, network }: Deps): Promise<Conservation> {
  const { watermark, live, test, payouts, hashes, cursor, difference } = await db.systemTransaction(
    async (tx) => {
      await readSnapshot(tx);
      const rerated = await rerate(tx);
      const journalOf = (mode: Mode) => rerated.charged[mode] + rerated.corrected[mode];
      return {
        watermark: (await getWatermark(tx)).applied,
        live: { ...(await readSums(tx, "live", rerated.after)), journal: journalOf("live") },
        test: { ...(await readSums(tx, "test", rerated.after)), journal: journalOf("test") },
        payouts: await readPayouts(tx),
        hashes: await readHashes(tx),
        cursor: await findCursor(tx, network),
        difference: await findDifference(tx, rerated),
      };
    },
  );
  const { treasuryNanos, payments, comingNanos } = await readChain(network, cursor);
  const sumOf = (state: "paid" | "open") =>
    payments.reduce((sum, { hash, nanos }) => (hashes.get(hash) === state ? sum + nanos : sum), 0n);
  const checks = [
    ...ledgerChecks(live, ""),
    ...ledgerChecks(test, " (test)"),
    check("money in flight = payouts in flight", live.in_flight, payouts.in_flight),
    check("payouts in the ledger = payouts that are paid", live.paid, payouts.paid),
    check("payouts in the ledger = payouts on the chain", live.paid, sumOf("paid")),
    check(
      "treasury in the ledger = treasury on the chain + payouts of open slots - deposits to come",
      live.chain,
      treasuryNanos + sumOf("open") - comingNanos,
    ),
  ];
  const ok = difference === null && checks.every((one) => one.ok);
  return { ok, checks, difference, watermark };
}

function ledgerChecks(sums: Sums, suffix: string): Check[] {
  return [
    check(`balances that differ from their transfers = none${suffix}`, sums.drift, 0n),
    check(`money between accounts = none${suffix}`, sums.clearing, 0n),
    check(
      `consumer charges = developer credits + platform fee${suffix}`,
      sums.charges,
      sums.developer_credits + sums.fees,
    ),
    check(
      `charges in the journal = consumer charges${suffix}`,
      sums.archived + sums.journal,
      sums.charges,
    ),
    check(`charges of events = consumer charges${suffix}`, sums.events, sums.charges),
    check(`charges in usage roll-ups = consumer charges${suffix}`, sums.usage, sums.charges),
    check(`revenue in roll-ups = consumer charges${suffix}`, sums.revenue, sums.charges),
    check(`charges in lines of bills = consumer charges${suffix}`, sums.billed, sums.charges),
    check(`escrow in the ledger = what is left of open leases${suffix}`, sums.escrow, sums.leases),
    check(
      `developer credits = paid + in flight + payable${suffix}`,
      sums.developer_credits,
      sums.paid + sums.in_flight + sums.payable,
    ),
  ];
}

function check(name: string, leftNanos: bigint, rightNanos: bigint): Check {
  return { name, leftNanos, rightNanos, ok: leftNanos === rightNanos };
}

const sumsRow = z.object({
  drift: z.bigint(),
  clearing: z.bigint(),
  charges: z.bigint(),
  developer_credits: z.bigint(),
  fees: z.bigint(),
  paid: z.bigint(),
  payable: z.bigint(),
  in_flight: z.bigint(),
  chain: z.bigint(),
  escrow: z.bigint(),
  leases: z.bigint(),
  events: z.bigint(),
  archived: z.bigint(),
  usage: z.bigint(),
  revenue: z.bigint(),
  billed: z.bigint(),
});

type Sums = z.infer<typeof sumsRow> & { journal: bigint };

/** What a correction moves of a consumer. */
const consumerKinds = sql.fragment`('consumer', 'consumer_receivable')`;

/** What a correction moves of a developer: what was paid out already is owed back. */
const developerKinds = sql.fragment`('payable', 'developer_receivable')`;

/** The journal's rows up to `after` are removed: their sum is that of their archives. */
function readSums(tx: Tx, mode: Mode, after: bigint): Promise<z.infer<typeof sumsRow>> {
  return tx.one(sql.type(sumsRow)`
    with transfers as (
      select * from ledger_transfers where mode = ${mode}
    ), moved as (
      select account_id, kind, sum(debit) as debits, sum(credit) as credits
      from (
        select account_id, debit_kind as kind, amount_nanos as debit, 0::int8 as credit
        from transfers
        union all
        select account_id, credit_kind, 0, amount_nanos from transfers
      ) as sides
      group by account_id, kind
    ), balances as (
      select account_id, kind, debits_nanos, credits_nanos, credits_nanos - debits_nanos as held
      from ledger_accounts where mode = ${mode}
    )
    select
      (
        select coalesce(sum(
          abs(coalesce(debits_nanos, 0) - coalesce(debits, 0))
          + abs(coalesce(credits_nanos, 0) - coalesce(credits, 0))
        ), 0)::int8
        from balances full join moved using (account_id, kind)
      ) as drift,
      (select coalesce(sum(held), 0)::int8 from balances where kind = 'clearing') as clearing,
      (
        select coalesce(sum(case when credit_kind = 'clearing' then amount_nanos else -amount_nanos end), 0)::int8
        from transfers
        where (source_type = 'usage' and credit_kind = 'clearing')
          or (source_type = 'correction' and (debit_kind in ${consumerKinds} or credit_kind in ${consumerKinds}))
      ) as charges,
      (
        select coalesce(sum(case when debit_kind = 'clearing' then amount_nanos else -amount_nanos end), 0)::int8
        from transfers
        where (source_type = 'usage' and credit_kind = 'payable')
          or (source_type = 'correction' and (debit_kind in ${developerKinds} or credit_kind in ${developerKinds}))
      ) as developer_credits,
      (select coalesce(sum(held), 0)::int8 from balances where kind = 'platform_fee') as fees,
      (
        select coalesce(sum(amount_nanos), 0)::int8 from transfers
        where source_type = 'payout' and credit_kind = 'chain'
      ) as paid,
      (
        select coalesce(sum(held), 0)::int8 from balances
        where kind in ('payable', 'developer_receivable')
      ) as payable,
      (select coalesce(sum(held), 0)::int8 from balances where kind = 'in_flight') as in_flight,
      (select coalesce(-sum(held), 0)::int8 from balances where kind = 'chain') as chain,
      (select coalesce(sum(held), 0)::int8 from balances where kind = 'lease_escrow') as escrow,
      (
        select coalesce(sum(amount_nanos - spent_nanos), 0)::int8 from credit_leases
        where mode = ${mode} and state <> 'closed'
      ) as leases,
      (
        select coalesce(sum(nanos), 0)::int8 from (
          select charged_nanos as nanos from usage_events where mode = ${mode}
          union all
          select charged_nanos from usage_partition_totals where mode = ${mode}
          union all
          select delta_nanos from usage_corrections where mode = ${mode}
        ) as kept
      ) as events,
      (
        select coalesce(sum(
          case ${mode} when 'live' then charged_live_nanos else charged_test_nanos end
        ), 0)::int8
        from journal_archives where last_position <= ${after}
      ) as archived,
      (
        select coalesce(sum(charged_nanos), 0)::int8 from usage_rollups where mode = ${mode}
      ) as usage,
      (
        select coalesce(sum(revenue_nanos), 0)::int8 from revenue_rollups where mode = ${mode}
      ) as revenue,
      (
        select coalesce(sum(nanos), 0)::int8 from (
          select charged_nanos + corrected_nanos as nanos from billing_lines where mode = ${mode}
          union all
          select charged_nanos from billing_baseline where mode = ${mode}
        ) as lines
      ) as billed
  `);
}

const payoutsRow = z.object({ in_flight: z.bigint(), paid: z.bigint() });

function readPayouts(tx: Tx): Promise<z.infer<typeof payoutsRow>> {
  return tx.one(sql.type(payoutsRow)`
    select
      coalesce(sum(amount_nanos) filter (where state = 'in_flight'), 0)::int8 as in_flight,
      coalesce(sum(amount_nanos) filter (where state = 'paid'), 0)::int8 as paid
    from payouts
  `);
}

const hashRow = z.object({ hash: z.string(), state: z.enum(["paid", "open"]) });

/** The transactions that the ledger counts as paid, and those of slots that are not closed. */
async function readHashes(tx: Tx): Promise<Map<string, "paid" | "open">> {
  const rows = await tx.any(sql.type(hashRow)`
    select distinct transaction_hash as hash, 'paid' as state from payouts where state = 'paid'
    union all
    select hash, 'open' from settlement_attempts
    join settlement_slots using (channel, sequence)
    where settlement_slots.state = 'open'
  `);
  return new Map(rows.map(({ hash, state }) => [hash, state]));
}

interface ChainSums {
  treasuryNanos: bigint;
  payments: { hash: string; nanos: bigint }[];
  /** Deposits that are on the chain, and not in the ledger yet. */
  comingNanos: bigint;
}

async function readChain(network: StellarNetwork, entered: string | null): Promise<ChainSums> {
  const treasury = network.treasury.publicKey();
  const payments: ChainSums["payments"] = [];
  let comingNanos = 0n;
  let cursor = "0";
  for (let page = 0; page < paymentPagesMax; page++) {
    const found = await network.horizon.listPayments(treasury, { cursor, limit: 200 });
    for (const payment of found) {
      if (payment.from === treasury && payment.successful) {
        const nanos = payment.stroops * nanosPerStroop;
        payments.push({ hash: payment.transactionHash, nanos });
      }
      if (
        entered !== null &&
        BigInt(payment.pagingToken) > BigInt(entered) &&
        isDeposit(network, payment)
      ) {
        comingNanos += payment.stroops * nanosPerStroop;
      }
    }
    const last = found.at(-1);
    if (last === undefined || found.length < 200) {
      const treasuryNanos = (await treasuryStroops(network)) * nanosPerStroop;
      return { treasuryNanos, payments, comingNanos };
    }
    cursor = last.pagingToken;
  }
  throw new Error(`Cannot check the chain: more than ${paymentPagesMax * 200} payments`);
}
