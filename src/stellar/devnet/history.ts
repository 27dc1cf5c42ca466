import assert from "node:assert";
import type { Location } from "./log.ts";
import type { LedgerRecord, TransactionRecord } from "./record.ts";

/** A closed ledger, without what happened in it. */
export type LedgerRow = {
  sequence: number;
  closeTime: number;
  hash: string;
  previousHash: string;
  feePool: bigint;
  transactions: number;
  failed: number;
  operations: number;
  location: Location;
};

/** A transaction in a closed ledger, without its envelope. */
export type TransactionRow = {
  /** Position among all transactions. */
  index: number;
  hash: string;
  innerHash: string | null;
  ledger: LedgerRow;
  /** Position in the ledger, from 1. */
  order: number;
  isSuccessful: boolean;
  operations: number;
  /** Position of the first operation among all operations. */
  firstOperation: number;
  feeCharged: bigint;
  feeMax: bigint;
};

/** Positions of everything one account took part in, oldest first. */
export type Participation = { transactions: number[]; operations: number[]; payments: number[] };

/** Everything that happened, found by hash, by account or by position. */
export type History = {
  ledgers: readonly LedgerRow[];
  transactions: readonly TransactionRow[];
  add(record: LedgerRecord, location: Location): void;
  find(hash: string): TransactionRow | undefined;
  participation(account: string): Participation;
  /** The transaction that holds the operation at a position. */
  holderOf(operation: number): TransactionRow;
  isPayment(operation: number): boolean;
};

/** Kinds that Horizon's payments list shows: create account, payment, account merge. */
const paymentTypes = new Set([0, 1, 8]);

/** Index closed ledgers in memory; envelopes and results stay in the log. */
export function createHistory(): History {
  const ledgers: LedgerRow[] = [];
  const transactions: TransactionRow[] = [];
  const byHash = new Map<string, TransactionRow>();
  const byAccount = new Map<string, Participation>();
  const paymentOperations = new Set<number>();
  let operationCount = 0;

  function participation(account: string): Participation {
    return byAccount.get(account) ?? { transactions: [], operations: [], payments: [] };
  }

  function addTransaction(record: TransactionRecord, ledger: LedgerRow, order: number): void {
    const row: TransactionRow = {
      index: transactions.length,
      hash: record.hash,
      innerHash: record.innerHash,
      ledger,
      order,
      isSuccessful: record.codes === null,
      operations: record.operations.length,
      firstOperation: operationCount,
      feeCharged: record.feeCharged,
      feeMax: record.feeMax,
    };
    transactions.push(row);
    byHash.set(row.hash, row);
    if (row.innerHash !== null) byHash.set(row.innerHash, row);
    const taking = record.accounts.map((account) => {
      const known = participation(account);
      byAccount.set(account, known);
      known.transactions.push(row.index);
      return known;
    });
    for (const [index, [type, ...participants]] of record.operations.entries()) {
      assert(type !== undefined);
      const isPayment = paymentTypes.has(type);
      if (isPayment) paymentOperations.add(operationCount + index);
      for (const participant of participants) {
        const known = taking[participant];
        assert(known !== undefined);
        known.operations.push(operationCount + index);
        if (isPayment) known.payments.push(operationCount + index);
      }
    }
    operationCount += row.operations;
  }

  return {
    ledgers,
    transactions,
    add(record, location) {
      const failed = record.transactions.filter(({ codes }) => codes !== null).length;
      const ledger = {
        sequence: record.sequence,
        closeTime: record.closeTime,
        hash: record.hash,
        previousHash: record.previousHash,
        feePool: record.feePool,
        transactions: record.transactions.length,
        failed,
        operations: record.transactions.reduce((sum, { operations }) => sum + operations.length, 0),
        location,
      };
      ledgers.push(ledger);
      for (const [index, transaction] of record.transactions.entries()) {
        addTransaction(transaction, ledger, index + 1);
      }
    },
    find: (hash) => byHash.get(hash),
    participation,
    holderOf(operation) {
      const index = lastAtMost(transactions, (row) => row.firstOperation, operation);
      const row = transactions[index];
      assert(row !== undefined);
      return row;
    },
    isPayment: (operation) => paymentOperations.has(operation),
  };
}

/** Position of the last row whose key is at most `key`, or -1. Rows ascend by key. */
export function lastAtMost<T>(rows: readonly T[], keyOf: (row: T) => number, key: number): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const row = rows[middle];
    if (row !== undefined && keyOf(row) <= key) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
