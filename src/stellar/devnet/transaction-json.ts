import type { xdr } from "@stellar/stellar-sdk/base";
import { isoTime } from "./account-json.ts";
import type { Envelope, Signature, Transaction } from "./envelope.ts";
import type { TransactionRow } from "./history.ts";
import { feeSource } from "./ledger.ts";
import { pagingToken } from "./paging.ts";
import type { TransactionRecord } from "./record.ts";

/** A transaction with all that is needed to show it. */
export type FullTransaction = {
  row: TransactionRow;
  record: TransactionRecord;
  envelope: Envelope;
};

/** No ledger entry changes: this ledger does not write them down. */
const noChangesXdr = "AAAAAA==";

/** A transaction as Horizon shows it. `hash` is the one asked for: of a fee bump or inside it. */
export function transactionJson(
  { row, record, envelope }: FullTransaction,
  { base, hash = row.hash }: { base: string; hash?: string },
) {
  const { transaction, feeBump } = envelope;
  const self = `${base}/transactions/${hash}`;
  const outer = signaturesJson((feeBump ?? transaction).signatures);
  const inner = signaturesJson(transaction.signatures);
  return {
    _links: {
      self: { href: self },
      account: { href: `${base}/accounts/${transaction.source}` },
      ledger: { href: `${base}/ledgers/${row.ledger.sequence}` },
      operations: { href: `${self}/operations{?cursor,limit,order}`, templated: true },
      effects: { href: `${self}/effects{?cursor,limit,order}`, templated: true },
    },
    id: hash,
    paging_token: transactionToken(row).toString(),
    successful: row.isSuccessful,
    hash,
    ledger: row.ledger.sequence,
    created_at: isoTime(row.ledger.closeTime),
    source_account: transaction.source,
    ...(transaction.sourceMuxed !== null && { account_muxed: transaction.sourceMuxed }),
    source_account_sequence: transaction.sequence.toString(),
    fee_account: feeSource(envelope),
    fee_charged: row.feeCharged.toString(),
    max_fee: row.feeMax.toString(),
    operation_count: row.operations,
    envelope_xdr: record.envelope,
    result_xdr: record.result,
    fee_meta_xdr: noChangesXdr,
    ...memoJson(transaction.memo),
    signatures: hash === row.hash ? outer : inner,
    preconditions: preconditionsJson(transaction),
    ...(feeBump && {
      fee_bump_transaction: { hash: row.hash, signatures: outer },
      inner_transaction: {
        hash: row.innerHash,
        signatures: inner,
        max_fee: transaction.fee.toString(),
      },
    }),
  };
}

/** Where a transaction lies in all of history. */
export function transactionToken({ ledger, order }: TransactionRow): bigint {
  return pagingToken(ledger.sequence, order);
}

function signaturesJson(signatures: readonly Signature[]): string[] {
  return signatures.map(({ bytes }) => bytes.toString("base64"));
}

function memoJson(memo: xdr.Memo): object {
  if (memo.type === "memoNone") return { memo_type: "none" };
  if (memo.type === "memoId") return { memo_type: "id", memo: memo.id.toString() };
  if (memo.type === "memoText") {
    const bytes = Buffer.from(memo.text.bytes).toString("base64");
    return { memo_type: "text", memo: memo.text.toString(), memo_bytes: bytes };
  }
  const hash = memo.type === "memoHash" ? memo.hash : memo.retHash;
  const type = memo.type === "memoHash" ? "hash" : "return";
  return { memo_type: type, memo: Buffer.from(hash.value).toString("base64") };
}

function preconditionsJson({ conditions }: Transaction): object {
  const { timeBounds, ledgerBounds, minSeqNum, minSeqAge, minSeqLedgerGap } = conditions;
  const maxTime = timeBounds?.maxTime || null;
  return {
    ...(timeBounds && {
      timebounds: {
        min_time: timeBounds.minTime.toString(),
        ...(maxTime && { max_time: maxTime.toString() }),
      },
    }),
    ...(ledgerBounds && {
      ledgerbounds: { min_ledger: ledgerBounds.minLedger, max_ledger: ledgerBounds.maxLedger },
    }),
    ...(minSeqNum !== null && { min_account_sequence: minSeqNum.toString() }),
    ...(minSeqAge > 0n && { min_account_sequence_age: minSeqAge.toString() }),
    ...(minSeqLedgerGap > 0 && { min_account_sequence_ledger_gap: minSeqLedgerGap }),
  };
}
