import type { xdr } from "@stellar/stellar-sdk/base";
import type { Level } from "./signatures.ts";
import type { Account, Accounts } from "./state.ts";

/** An operation of one kind. */
export type BodyOf<K extends string> = Extract<xdr.OperationBody, { type: K }>;

/** What an operation may see and change. */
export type OperationContext = {
  accounts: Accounts;
  /** The account that the operation acts for. */
  source: Account;
  ledger: number;
  closeTime: number;
  /** Store an account as changed in this ledger. */
  save(account: Account): void;
};

/** How one kind of operation is judged. Codes are Horizon's names. */
export type Rule<K extends string> = {
  level(body: BodyOf<K>): Level;
  /** What is wrong with the operation whatever the ledger holds, or `op_success`. */
  check(body: BodyOf<K>, source: string): string;
  /** Change accounts and say how it went. Changes of a failed operation are dropped. */
  apply(body: BodyOf<K>, context: OperationContext): string | { code: string; balance: bigint };
};
