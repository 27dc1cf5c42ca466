import type { Envelope, Transaction } from "./envelope.ts";
import {
  applyOperation,
  checkOperation,
  operationLevel,
  operationSource,
  outcome,
  untouchedOutcome,
} from "./operations.ts";
import {
  isSuccess,
  type OperationOutcome,
  type Outcome,
  type TransactionCode,
  type TransactionOutcome,
} from "./result.ts";
import { type SignatureChecker, signatureChecker } from "./signatures.ts";
import {
  type Account,
  type Accounts,
  availableBalance,
  baseFee,
  commit,
  type Overlay,
  overlay,
} from "./state.ts";

/** The ledger that a transaction is judged for. */
export type LedgerPosition = { sequence: number; closeTime: number };

/** A ledger about to be closed: what each envelope did, and the accounts after it. */
export type AppliedLedger = {
  changes: Overlay["changes"];
  fees: bigint;
  outcomes: { envelope: Envelope; outcome: Outcome }[];
};

type Checkers = { inner: SignatureChecker; outer: SignatureChecker | null };

/** What a fee of at least the base fee comes to while the ledger is not full. */
export function feeCharged(envelope: Envelope): bigint {
  const needed = minFee(envelope);
  const bid = envelope.feeBump?.fee ?? envelope.transaction.fee;
  if (bid < needed) return bid;
  return needed;
}

/** The account that pays the fee. */
export function feeSource({ feeBump, transaction }: Envelope): string {
  return feeBump?.source ?? transaction.source;
}

/** Whether a transaction may enter the ledger; null when it may. Changes nothing. */
export function checkEnvelope(
  envelope: Envelope,
  accounts: Pick<Accounts, "get">,
  position: LedgerPosition,
): Outcome | null {
  const checkers = checkersOf(envelope);
  const bump = checkFeeBump(envelope, accounts, checkers);
  if (bump !== null) return { code: bump, feeCharged: owed(envelope, bump), ...noDetail };
  const code = checkTransaction(envelope, accounts, { position, checkers, isApplying: false });
  if (code !== null) return refusal(envelope, code);
  const operations = checkOperations(envelope.transaction, accounts, checkers.inner);
  if (operations !== null) return wrap(envelope, { code: "tx_failed", operations });
  return checkers.inner.allUsed() ? null : refusal(envelope, "tx_bad_auth_extra");
}

/** Apply envelopes to accounts, each as a whole or not at all. The accounts stay untouched. */
export function applyLedger(
  envelopes: readonly Envelope[],
  accounts: Pick<Accounts, "get">,
  position: LedgerPosition,
): AppliedLedger {
  const after = overlay(accounts);
  const charged = new Map<Envelope, bigint>();
  // Fees of the whole ledger come first, as on the network: no payment can eat them.
  for (const envelope of envelopes) {
    const payer = after.get(feeSource(envelope));
    if (!payer) continue;
    const rest = payer.balance - feeCharged(envelope);
    const balance = rest < 0n ? 0n : rest;
    after.put({ ...payer, balance, lastModified: position.sequence });
    charged.set(envelope, payer.balance - balance);
  }
  const outcomes = envelopes.map((envelope) => {
    const outcome = applyEnvelope(envelope, after, position);
    return { envelope, outcome: { ...outcome, feeCharged: charged.get(envelope) ?? 0n } };
  });
  const fees = [...charged.values()].reduce((sum, fee) => sum + fee, 0n);
  return { changes: after.changes, fees, outcomes };
}

function applyEnvelope(envelope: Envelope, accounts: Accounts, position: LedgerPosition): Outcome {
  const { transaction } = envelope;
  const checkers = checkersOf(envelope);
  const code = checkTransaction(envelope, accounts, { position, checkers, isApplying: true });
  const source = accounts.get(transaction.source);
  if (source && (code === null || !keepsSequence.has(code))) {
    accounts.put({
      ...source,
      sequence: transaction.sequence,
      sequenceLedger: position.sequence,
      sequenceTime: position.closeTime,
      lastModified: position.sequence,
    });
  }
  if (code !== null) return refusal(envelope, code);
  const unsigned = checkOperationSignatures(transaction, accounts, checkers.inner);
  if (unsigned !== null) return wrap(envelope, { code: "tx_failed", operations: unsigned });
  if (!checkers.inner.allUsed()) return refusal(envelope, "tx_bad_auth_extra");
  return wrap(envelope, applyOperations(transaction, accounts, position));
}

/** Refusals found before a transaction's sequence number is looked at or found good. */
const keepsSequence = new Set<TransactionCode>([
  "tx_missing_operation",
  "tx_too_early",
  "tx_too_late",
  "tx_insufficient_fee",
  "tx_no_source_account",
  "tx_bad_seq",
  "tx_bad_minseq_age_or_gap",
  "tx_not_supported",
  "tx_soroban_invalid",
]);

/** All operations run even after one fails, so that a result names each that cannot work. */
function applyOperations(
  transaction: Transaction,
  accounts: Accounts,
  { sequence, closeTime }: LedgerPosition,
): TransactionOutcome {
  const whole = overlay(accounts);
  const operations: OperationOutcome[] = [];
  for (const operation of transaction.operations) {
    const step = overlay(whole);
    const source = step.get(operationSource(operation, transaction.source));
    if (!source) {
      operations.push(outcome(operation.body, "op_no_source_account"));
      continue;
    }
    const checked = checkOperation(operation, source.id);
    const save = (account: Account) => step.put({ ...account, lastModified: sequence });
    const context = { accounts: step, source, ledger: sequence, closeTime, save };
    const done = checked.code === "op_success" ? applyOperation(operation, context) : checked;
    if (done.code === "op_success") commit(step.changes, whole);
    operations.push(done);
  }
  const failed = operations.some(({ code }) => code !== "op_success");
  if (failed) return { code: "tx_failed", operations };
  commit(whole.changes, accounts);
  return { code: "tx_success", operations };
}

/** The order of these checks is the network's: which code comes back depends on it. */
function checkTransaction(
  envelope: Envelope,
  accounts: Pick<Accounts, "get">,
  options: { position: LedgerPosition; checkers: Checkers; isApplying: boolean },
): TransactionCode | null {
  const { transaction, feeBump } = envelope;
  const { position, checkers, isApplying } = options;
  const early = checkBounds(transaction, position);
  if (early !== null) return early;
  const paysFee = !isApplying && feeBump === null;
  if (paysFee && transaction.fee < minFee(envelope)) return "tx_insufficient_fee";
  const source = accounts.get(transaction.source);
  if (!source) return "tx_no_source_account";
  const sequence = checkSequence(transaction, source, position);
  if (sequence !== null) return sequence;
  if (!checkers.inner.reaches(source, "low")) return "tx_bad_auth";
  const isShort = availableBalance(source) < feeCharged(envelope);
  return paysFee && isShort ? "tx_insufficient_balance" : null;
}

function checkBounds(transaction: Transaction, position: LedgerPosition): TransactionCode | null {
  const { timeBounds, ledgerBounds, extraSigners } = transaction.conditions;
  if (transaction.soroban) return "tx_soroban_invalid";
  if (extraSigners.length > 0) return "tx_not_supported";
  if (transaction.operations.length === 0) return "tx_missing_operation";
  const time = BigInt(position.closeTime);
  if (timeBounds && timeBounds.minTime > time) return "tx_too_early";
  if (ledgerBounds && ledgerBounds.minLedger > position.sequence) return "tx_too_early";
  if (timeBounds && timeBounds.maxTime !== 0n && timeBounds.maxTime < time) return "tx_too_late";
  const maxLedger = ledgerBounds?.maxLedger ?? 0;
  return maxLedger !== 0 && maxLedger <= position.sequence ? "tx_too_late" : null;
}

function checkSequence(
  { sequence, conditions }: Transaction,
  source: Account,
  position: LedgerPosition,
): TransactionCode | null {
  const { minSeqNum, minSeqAge, minSeqLedgerGap } = conditions;
  // A sequence that a new account in this ledger could start with would allow a replay.
  if (sequence === BigInt(position.sequence) << 32n) return "tx_bad_seq";
  const isNext =
    minSeqNum === null
      ? source.sequence + 1n === sequence
      : source.sequence >= minSeqNum && source.sequence < sequence;
  if (!isNext) return "tx_bad_seq";
  const age = BigInt(position.closeTime - source.sequenceTime);
  const gap = position.sequence - source.sequenceLedger;
  return age < minSeqAge || gap < minSeqLedgerGap ? "tx_bad_minseq_age_or_gap" : null;
}

/** A fee bump must bid at least the rate of what it carries. */
function checkFeeBump(
  envelope: Envelope,
  accounts: Pick<Accounts, "get">,
  { outer }: Checkers,
): TransactionCode | null {
  const { feeBump, transaction } = envelope;
  if (feeBump === null || outer === null) return null;
  const operations = BigInt(transaction.operations.length);
  const innerMin = (operations === 0n ? 1n : operations) * baseFee;
  const isSlower = feeBump.fee * innerMin < transaction.fee * minFee(envelope);
  if (feeBump.fee < minFee(envelope) || isSlower) return "tx_insufficient_fee";
  const payer = accounts.get(feeBump.source);
  if (!payer) return "tx_no_source_account";
  if (!outer.reaches(payer, "low")) return "tx_bad_auth";
  if (availableBalance(payer) < feeCharged(envelope)) return "tx_insufficient_balance";
  return outer.allUsed() ? null : "tx_bad_auth_extra";
}

/** The first bad operation ends the check; those after it read as successes, as on the network. */
function checkOperations(
  transaction: Transaction,
  accounts: Pick<Accounts, "get">,
  checker: SignatureChecker,
): OperationOutcome[] | null {
  for (const [index, operation] of transaction.operations.entries()) {
    const id = operationSource(operation, transaction.source);
    const source = accounts.get(id);
    const isSigned = source
      ? checker.reaches(source, operationLevel(operation))
      : checker.signedBy(id);
    const checked = isSigned
      ? checkOperation(operation, id)
      : outcome(operation.body, "op_bad_auth");
    if (checked.code === "op_success") continue;
    const outcomes = transaction.operations.map(untouchedOutcome);
    outcomes[index] = checked;
    return outcomes;
  }
  return null;
}

function checkOperationSignatures(
  transaction: Transaction,
  accounts: Pick<Accounts, "get">,
  checker: SignatureChecker,
): OperationOutcome[] | null {
  const outcomes = transaction.operations.map((operation) => {
    const id = operationSource(operation, transaction.source);
    const source = accounts.get(id);
    const isSigned = source
      ? checker.reaches(source, operationLevel(operation))
      : checker.signedBy(id);
    return isSigned ? untouchedOutcome(operation) : outcome(operation.body, "op_bad_auth");
  });
  return outcomes.some(({ code }) => code === "op_bad_auth") ? outcomes : null;
}

function checkersOf({ transaction, feeBump }: Envelope): Checkers {
  return {
    inner: signatureChecker(transaction),
    outer: feeBump && signatureChecker(feeBump),
  };
}

function minFee({ transaction, feeBump }: Envelope): bigint {
  return BigInt(transaction.operations.length + (feeBump ? 1 : 0)) * baseFee;
}

function refusal(envelope: Envelope, code: TransactionCode): Outcome {
  return wrap(envelope, { code, operations: null });
}

function wrap(envelope: Envelope, { code, operations }: TransactionOutcome): Outcome {
  const charged = owed(envelope, code);
  if (!envelope.feeBump) return { code, feeCharged: charged, operations, inner: null };
  const isDone = isSuccess({ code });
  return {
    code: isDone ? "tx_fee_bump_inner_success" : "tx_fee_bump_inner_failed",
    feeCharged: charged,
    operations: null,
    inner: { code, operations, hash: envelope.transaction.hash },
  };
}

const noDetail = { operations: null, inner: null };

/** A bid too low is answered with what would have been enough. */
function owed(envelope: Envelope, code: TransactionCode): bigint {
  return code === "tx_insufficient_fee" ? minFee(envelope) : feeCharged(envelope);
}
