import assert from "node:assert";
import { xdr } from "@stellar/stellar-sdk/base";

/** Transaction result codes, by Horizon's name. */
const transactionCodes = {
  tx_fee_bump_inner_success: 1,
  tx_success: 0,
  tx_failed: -1,
  tx_too_early: -2,
  tx_too_late: -3,
  tx_missing_operation: -4,
  tx_bad_seq: -5,
  tx_bad_auth: -6,
  tx_insufficient_balance: -7,
  tx_no_source_account: -8,
  tx_insufficient_fee: -9,
  tx_bad_auth_extra: -10,
  tx_not_supported: -12,
  tx_fee_bump_inner_failed: -13,
  tx_bad_minseq_age_or_gap: -15,
  tx_malformed: -16,
  tx_soroban_invalid: -17,
} as const;

/** A transaction result code, by Horizon's name. */
export type TransactionCode = keyof typeof transactionCodes;

/** Codes that any operation can have before its own rules are asked. */
const outerCodes: Record<string, number> = {
  op_bad_auth: -1,
  op_no_source_account: -2,
  op_not_supported: -3,
  op_too_many_subentries: -4,
};

/** Result codes of each supported operation, by Horizon's name, with the place in the XDR. */
export const operationResults = {
  createAccount: {
    type: 0,
    field: "createAccountResult",
    codes: codes("malformed", "underfunded", "low_reserve", "already_exists"),
  },
  payment: {
    type: 1,
    field: "paymentResult",
    codes: codes(
      "malformed",
      "underfunded",
      "src_no_trust",
      "src_not_authorized",
      "no_destination",
      "no_trust",
      "not_authorized",
      "line_full",
      "no_issuer",
    ),
  },
  setOptions: {
    type: 5,
    field: "setOptionsResult",
    codes: codes(
      "low_reserve",
      "too_many_signers",
      "bad_flags",
      "invalid_inflation",
      "cant_change",
      "unknown_flag",
      "threshold_out_of_range",
      "bad_signer",
      "invalid_home_domain",
      "auth_revocable_required",
    ),
  },
  changeTrust: {
    type: 6,
    field: "changeTrustResult",
    codes: codes("malformed", "no_issuer", "invalid_limit", "low_reserve", "self_not_allowed"),
  },
  accountMerge: {
    type: 8,
    field: "accountMergeResult",
    codes: codes(
      "malformed",
      "no_account",
      "immutable_set",
      "has_sub_entries",
      "seq_num_too_far",
      "dest_full",
    ),
  },
  manageData: {
    type: 10,
    field: "manageDataResult",
    codes: codes("not_supported_yet", "data_name_not_found", "low_reserve", "data_invalid_name"),
  },
  bumpSequence: { type: 11, field: "bumpSeqResult", codes: codes("bad_seq") },
  setTrustLineFlags: {
    type: 21,
    field: "setTrustLineFlagsResult",
    codes: codes("malformed", "no_trustline", "cant_revoke", "invalid_state", "low_reserve"),
  },
} as const;

/** Operations this ledger can apply. */
export type OperationKind = keyof typeof operationResults;

/** How an operation ended. `balance` is what a merged account still held. */
export type OperationOutcome = { kind: string; code: string; balance?: bigint };

/** How a transaction ended, without its fee bump. No operations when none was looked at. */
export type TransactionOutcome = {
  code: TransactionCode;
  operations: readonly OperationOutcome[] | null;
};

/** How an envelope ended: of a fee bump, `inner` is null when the bump itself was refused. */
export type Outcome = {
  code: TransactionCode;
  feeCharged: bigint;
  operations: readonly OperationOutcome[] | null;
  inner: (TransactionOutcome & { hash: Buffer }) | null;
};

/** Result codes as Horizon's `extras.result_codes` names them. */
export type ResultCodes = {
  transaction: TransactionCode;
  inner_transaction?: TransactionCode;
  operations?: string[];
};

/** Whether the envelope did what it says. */
export function isSuccess(outcome: Pick<Outcome, "code">): boolean {
  return outcome.code === "tx_success" || outcome.code === "tx_fee_bump_inner_success";
}

/** Name the codes of an outcome as Horizon does. */
export function resultCodes({ code, operations, inner }: Outcome): ResultCodes {
  const named = operations ?? inner?.operations;
  return {
    transaction: code,
    ...(inner && { inner_transaction: inner.code }),
    ...(named && { operations: named.map((operation) => operation.code) }),
  };
}

/** Encode an outcome as `TransactionResult`, base64. */
export function resultXdr({ code, feeCharged, operations, inner }: Outcome): string {
  const ext = { v: 0 };
  const result = inner
    ? {
        code: transactionCodes[code],
        innerResultPair: {
          transactionHash: new Uint8Array(inner.hash),
          result: { feeCharged: 0n, result: bodyOf(inner), ext },
        },
      }
    : bodyOf({ code, operations });
  const wire = { feeCharged, result, ext };
  return xdr.TransactionResult.fromXdrObject(wire as ResultWire).toXdr("base64");
}

type ResultWire = Parameters<typeof xdr.TransactionResult.fromXdrObject>[0];

function bodyOf({ code, operations }: TransactionOutcome) {
  const number = transactionCodes[code];
  if (code !== "tx_success" && code !== "tx_failed") return { code: number };
  assert(operations !== null);
  return { code: number, results: operations.map(operationWire) };
}

function operationWire({ kind, code, balance }: OperationOutcome) {
  const outer = outerCodes[code];
  if (outer !== undefined) return { code: outer };
  const { type, field, codes: known } = operationResults[kind as OperationKind];
  const number = (known as Record<string, number>)[code];
  assert(number !== undefined, `${kind} has no code ${code}`);
  const value = { code: number, ...(balance !== undefined && { sourceAccountBalance: balance }) };
  return { code: 0, tr: { type, [field]: value } };
}

/** Failures are numbered from -1 downwards, in the order of the protocol. */
function codes(...failures: string[]): Record<string, number> {
  return Object.fromEntries([
    ["op_success", 0],
    ...failures.map((name, index) => [`op_${name}`, -1 - index]),
  ]);
}
