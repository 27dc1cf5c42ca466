import { amountText, isoTime } from "./account-json.ts";
import type { Chain } from "./chain.ts";
import type { TransactionRow } from "./history.ts";
import type { LedgerView } from "./ledger-clock.ts";
import { pagingToken } from "./paging.ts";
import { baseFee, baseReserve, ledgerOperationsMax } from "./state.ts";

/** The protocol that this ledger behaves like. */
const protocolVersion = 23;
const feeLedgersCounted = 5;
const totalCoins = 10n ** 18n;

/** The front page. */
export function rootJson(chain: Chain, base: string): object {
  const latest = chain.latest();
  const link = (path: string) => ({ href: `${base}${path}`, templated: path.includes("{") });
  return {
    _links: {
      self: link("/"),
      account: link("/accounts/{account_id}"),
      account_transactions: link("/accounts/{account_id}/transactions{?cursor,limit,order}"),
      fee_stats: link("/fee_stats"),
      friendbot: link("/friendbot{?addr}"),
      ledger: link("/ledgers/{sequence}"),
      ledgers: link("/ledgers{?cursor,limit,order}"),
      transaction: link("/transactions/{hash}"),
      transactions: link("/transactions{?cursor,limit,order}"),
    },
    horizon_version: "embedded",
    core_version: "embedded",
    ingest_latest_ledger: latest.sequence,
    history_latest_ledger: latest.sequence,
    history_latest_ledger_closed_at: isoTime(latest.closeTime),
    history_elder_ledger: 1,
    core_latest_ledger: latest.sequence,
    network_passphrase: chain.passphrase,
    current_protocol_version: protocolVersion,
    supported_protocol_version: protocolVersion,
    core_supported_protocol_version: protocolVersion,
  };
}

/** A ledger as Horizon shows it. */
export function ledgerJson(view: LedgerView, base: string) {
  const { sequence, row, isEmpty } = view;
  const self = `${base}/ledgers/${sequence}`;
  const list = (name: string) => ({
    href: `${self}/${name}{?cursor,limit,order}`,
    templated: true,
  });
  return {
    _links: {
      self: { href: self },
      transactions: list("transactions"),
      operations: list("operations"),
      payments: list("payments"),
      effects: list("effects"),
    },
    id: view.hash,
    paging_token: pagingToken(sequence).toString(),
    hash: view.hash,
    prev_hash: view.previousHash,
    sequence,
    successful_transaction_count: isEmpty ? 0 : row.transactions - row.failed,
    failed_transaction_count: isEmpty ? 0 : row.failed,
    operation_count: isEmpty ? 0 : row.operations,
    tx_set_operation_count: isEmpty ? 0 : row.operations,
    closed_at: isoTime(view.closeTime),
    total_coins: amountText(totalCoins),
    fee_pool: amountText(row.feePool),
    base_fee_in_stroops: Number(baseFee),
    base_reserve_in_stroops: Number(baseReserve),
    max_tx_set_size: ledgerOperationsMax,
    protocol_version: protocolVersion,
    header_xdr: "",
  };
}

/** What transactions paid of late, for each operation. */
export function feeStatsJson(chain: Chain): object {
  const latest = chain.latest();
  const { history } = chain;
  const recent = history.ledgers.slice(-feeLedgersCounted);
  const since = recent[0]?.sequence ?? 0;
  const rows: TransactionRow[] = [];
  for (let index = history.transactions.length - 1; index >= 0; index--) {
    const row = history.transactions[index];
    if (row === undefined || row.ledger.sequence < since) break;
    rows.push(row);
  }
  const used = latest.isEmpty ? 0 : latest.row.operations / ledgerOperationsMax;
  return {
    last_ledger: latest.sequence.toString(),
    last_ledger_base_fee: baseFee.toString(),
    ledger_capacity_usage: used.toFixed(2),
    fee_charged: spread(rows.map((row) => rate(row.feeCharged, row))),
    max_fee: spread(rows.map((row) => rate(row.feeMax, row))),
  };
}

/** A fee bump counts as one operation more. */
function rate(fee: bigint, row: TransactionRow): bigint {
  return fee / BigInt(row.operations + (row.innerHash === null ? 0 : 1));
}

function spread(fees: bigint[]): Record<string, string> {
  const sorted = fees.length > 0 ? fees.sort((a, b) => (a < b ? -1 : 1)) : [baseFee];
  const at = (percent: number) => {
    const index = Math.ceil((percent / 100) * sorted.length) - 1;
    return (sorted[Math.max(0, index)] ?? baseFee).toString();
  };
  const percents = [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99];
  return {
    max: at(100),
    min: at(0),
    mode: mode(sorted).toString(),
    ...Object.fromEntries(percents.map((percent) => [`p${percent}`, at(percent)])),
  };
}

function mode(fees: readonly bigint[]): bigint {
  const counts = new Map<bigint, number>();
  for (const fee of fees) counts.set(fee, (counts.get(fee) ?? 0) + 1);
  const [most] = [...counts].sort(([, a], [, b]) => b - a);
  return most?.[0] ?? baseFee;
}
