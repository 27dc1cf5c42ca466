import type { Envelope } from "./envelope.ts";
import { checkEnvelope, type LedgerPosition } from "./ledger.ts";
import type { Outcome } from "./result.ts";
import { type Accounts, ledgerOperationsMax } from "./state.ts";

/** What became of a submission: `later` means that its source has another transaction waiting. */
export type Submission =
  | { status: "pending" | "duplicate" | "later" | "full" }
  | { status: "error"; outcome: Outcome };

/** Transactions waiting for a ledger, at most one for each source account. */
export type Queue = {
  submit(envelope: Envelope, accounts: Accounts, position: LedgerPosition): Submission;
  /** Whether an account has a transaction waiting. */
  holds(source: string): boolean;
  isEmpty(): boolean;
  /** Take what fits into the next ledger; what became invalid while waiting goes to `dropped`. */
  take(accounts: Accounts, position: LedgerPosition): { taken: Envelope[]; dropped: Envelope[] };
  /** Forget what a ledger took. */
  settle(taken: readonly Envelope[]): void;
};

const pendingMax = 2000;
/** A waiting transaction gives way only to a fee bump of at least ten times its rate. */
const replacementFactor = 10n;

/** Make an empty queue. `onReplaced` hears of transactions that a fee bump pushed out. */
export function createQueue(onReplaced: (envelope: Envelope) => void): Queue {
  const pending = new Map<string, Envelope>();
  const closing = new Set<Envelope>();

  function replacement(old: Envelope, envelope: Envelope): Submission["status"] | null {
    const isBump = envelope.feeBump !== null;
    const isSameSequence = old.transaction.sequence === envelope.transaction.sequence;
    if (!isBump || !isSameSequence || closing.has(old)) return "later";
    const isEnough = bid(envelope) * slots(old) >= replacementFactor * bid(old) * slots(envelope);
    return isEnough ? null : "error";
  }

  return {
    submit(envelope, accounts, position) {
      const source = envelope.transaction.source;
      const old = pending.get(source);
      if (old?.hash === envelope.hash) return { status: "duplicate" };
      const status = old ? replacement(old, envelope) : null;
      if (status === "later") return { status };
      if (status === "error") return { status, outcome: tooLow(envelope) };
      if (!old && pending.size >= pendingMax) return { status: "full" };
      const outcome = checkEnvelope(envelope, accounts, position);
      if (outcome !== null) return { status: "error", outcome };
      pending.set(source, envelope);
      if (old) onReplaced(old);
      return { status: "pending" };
    },
    holds: (source) => pending.has(source),
    isEmpty: () => pending.size === 0,
    take(accounts, position) {
      const taken: Envelope[] = [];
      const dropped: Envelope[] = [];
      let operations = 0;
      for (const envelope of pending.values()) {
        if (checkEnvelope(envelope, accounts, position) !== null) {
          dropped.push(envelope);
        } else if (operations + envelope.transaction.operations.length <= ledgerOperationsMax) {
          operations += envelope.transaction.operations.length;
          taken.push(envelope);
          closing.add(envelope);
        }
      }
      for (const envelope of dropped) pending.delete(envelope.transaction.source);
      return { taken, dropped };
    },
    settle(taken) {
      for (const envelope of taken) {
        closing.delete(envelope);
        pending.delete(envelope.transaction.source);
      }
    },
  };
}

function bid({ feeBump, transaction }: Envelope): bigint {
  return feeBump?.fee ?? transaction.fee;
}

function slots({ feeBump, transaction }: Envelope): bigint {
  return BigInt(transaction.operations.length + (feeBump ? 1 : 0));
}

function tooLow(envelope: Envelope): Outcome {
  return {
    code: "tx_insufficient_fee",
    feeCharged: bid(envelope) * replacementFactor,
    operations: null,
    inner: null,
  };
}
