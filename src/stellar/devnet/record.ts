import { createHash } from "node:crypto";
import type { ResultCodes } from "./result.ts";
import type { Account, Signer, TrustLine } from "./state.ts";

/** One closed ledger as the log keeps it: what happened, and each changed account as it is now. */
export type LedgerRecord = {
  sequence: number;
  /** Seconds since 1970. */
  closeTime: number;
  hash: string;
  previousHash: string;
  feePool: bigint;
  accounts: readonly Account[];
  removed: readonly string[];
  transactions: readonly TransactionRecord[];
};

/** A transaction in a closed ledger. */
export type TransactionRecord = {
  hash: string;
  innerHash: string | null;
  envelope: string;
  result: string;
  /** Null when it succeeded. */
  codes: ResultCodes | null;
  feeCharged: bigint;
  feeMax: bigint;
  /** Accounts that took part, which `operations` counts into. */
  accounts: readonly string[];
  /** The protocol's number of each operation, then the accounts that took part in it. */
  operations: readonly (readonly number[])[];
};

/** Write a ledger as one line of JSON. */
export function encodeRecord(record: LedgerRecord): string {
  return JSON.stringify(record, (_, value: unknown) => {
    if (typeof value === "bigint") return value.toString();
    return value instanceof Map ? [...value] : value;
  });
}

/** Read a line that `encodeRecord` wrote. */
export function decodeRecord(text: string): LedgerRecord {
  const record = JSON.parse(text) as Encoded<LedgerRecord>;
  return {
    ...record,
    feePool: BigInt(record.feePool),
    accounts: record.accounts.map(decodeAccount),
    transactions: record.transactions.map((transaction) => ({
      ...transaction,
      feeCharged: BigInt(transaction.feeCharged),
      feeMax: BigInt(transaction.feeMax),
    })),
  };
}

/** The hash of a ledger, over its own facts and the ledger before it. */
export function ledgerHash(previousHash: string, sequence: number, facts: string): string {
  return createHash("sha256").update(`${previousHash} ${sequence} ${facts}`).digest("hex");
}

/** What JSON leaves of a record: bigints are strings and maps are lists of pairs. */
type Encoded<T> = T extends bigint
  ? string
  : T extends ReadonlyMap<infer K, infer V>
    ? [K, Encoded<V>][]
    : T extends readonly (infer E)[]
      ? Encoded<E>[]
      : T extends object
        ? { [K in keyof T]: Encoded<T[K]> }
        : T;

function decodeAccount(account: Encoded<Account>): Account {
  return {
    ...account,
    balance: BigInt(account.balance),
    sequence: BigInt(account.sequence),
    signers: account.signers as Signer[],
    trustLines: new Map(account.trustLines.map(([key, line]) => [key, decodeLine(line)])),
    data: new Map(account.data),
  };
}

function decodeLine(line: Encoded<TrustLine>): TrustLine {
  return { ...line, balance: BigInt(line.balance), limit: BigInt(line.limit) };
}
