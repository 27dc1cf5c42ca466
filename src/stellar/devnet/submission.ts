import { setTimeout as sleep } from "node:timers/promises";
import type { Chain } from "./chain.ts";
import type { Envelope } from "./envelope.ts";
import type { TransactionRow } from "./history.ts";
import { overloaded, Problem } from "./http.ts";
import { type ResultCodes, resultCodes, resultXdr } from "./result.ts";
import { transactionJson } from "./transaction-json.ts";

/**
 * What goes wrong with one submission: the connection breaks before or after the ledger took the
 * transaction, the answer is a timeout although it did, or everything takes longer.
 */
export type Fault = "drop-before" | "drop-after" | "timeout-after" | { delayMs: number };

/** Chooses what goes wrong. `nth` counts submissions from 1. */
export type FaultPlan = (request: { hash: string; nth: number }) => Fault | undefined;

/** An answer; null means to cut the connection. */
export type Answer = { status: number; body: object } | null;

/** Takes submitted envelopes. */
export type Submitter = {
  /** Answers once the ledger has closed, as `POST /transactions` does. */
  submit(base64: string, base: string): Promise<Answer>;
  /** Answers at once, as `POST /transactions_async` does. */
  submitAsync(base64: string): Promise<Answer>;
};

/** How a submitter behaves. */
export type SubmitterOptions = {
  fault?: FaultPlan | undefined;
  timeoutMs: number;
  stop: AbortSignal;
};

/** For how many ledgers a transaction that is in one is put off instead of judged again. */
const bannedLedgers = 10;

/** Make a submitter on a chain. */
export function createSubmitter(
  chain: Chain,
  { fault, timeoutMs, stop }: SubmitterOptions,
): Submitter {
  let nth = 0;

  async function withFault(hash: string, act: () => Promise<Answer>): Promise<Answer> {
    nth += 1;
    const chosen = fault?.({ hash, nth });
    if (chosen === "drop-before") return null;
    if (typeof chosen === "object") await sleep(chosen.delayMs, undefined, { signal: stop });
    const answer = await act();
    if (chosen === "drop-after") return null;
    return chosen === "timeout-after" ? problemAnswer(timeout(hash)) : answer;
  }

  async function settle(envelope: Envelope, base: string): Promise<Answer> {
    const { hash } = envelope;
    const known = chain.history.find(hash);
    if (known) return rowAnswer(chain, { row: known, hash, base });
    const submission = chain.submit(envelope);
    if (submission.status === "full") throw overloaded();
    if (submission.status === "error") {
      const { outcome } = submission;
      const result = { codes: resultCodes(outcome), result: resultXdr(outcome) };
      return problemAnswer(failed(envelope.base64, result));
    }
    const signal = AbortSignal.any([stop, AbortSignal.timeout(timeoutMs)]);
    const row = await chain.settled(hash, signal);
    if (row === null) return problemAnswer(timeout(hash));
    return rowAnswer(chain, { row, hash, base });
  }

  async function relay(envelope: Envelope): Promise<Answer> {
    const { hash } = envelope;
    const known = chain.history.find(hash);
    const age = known && chain.latest().sequence - known.ledger.sequence;
    if (age !== undefined && age < bannedLedgers) return statusAnswer(hash, "TRY_AGAIN_LATER", 503);
    const submission = chain.submit(envelope);
    if (submission.status === "pending") return statusAnswer(hash, "PENDING", 201);
    if (submission.status === "duplicate") return statusAnswer(hash, "DUPLICATE", 409);
    if (submission.status !== "error") return statusAnswer(hash, "TRY_AGAIN_LATER", 503);
    const body = {
      error_result_xdr: resultXdr(submission.outcome),
      hash,
      tx_status: "ERROR",
    };
    return { status: 400, body };
  }

  return {
    submit(base64, base) {
      const envelope = parse(chain, base64);
      return withFault(envelope.hash, () => settle(envelope, base));
    },
    submitAsync(base64) {
      const envelope = parse(chain, base64);
      return withFault(envelope.hash, () => relay(envelope));
    },
  };
}

function parse(chain: Chain, base64: string): Envelope {
  try {
    return chain.parse(base64);
  } catch {
    throw new Problem("transaction_malformed", {
      title: "Transaction Malformed",
      status: 400,
      detail: "Horizon could not decode the transaction envelope in this request.",
      extras: { envelope_xdr: base64.slice(0, 1000) },
    });
  }
}

async function rowAnswer(
  chain: Chain,
  { row, hash, base }: { row: TransactionRow; hash: string; base: string },
): Promise<Answer> {
  const record = await chain.read(row);
  if (record.codes !== null) {
    return problemAnswer(failed(record.envelope, { codes: record.codes, result: record.result }));
  }
  const envelope = chain.parse(record.envelope);
  return { status: 200, body: transactionJson({ row, record, envelope }, { base, hash }) };
}

function failed(envelope: string, { codes, result }: { codes: ResultCodes; result: string }) {
  return new Problem("transaction_failed", {
    title: "Transaction Failed",
    status: 400,
    detail: "The transaction failed when submitted to the stellar network.",
    extras: { envelope_xdr: envelope, result_codes: codes, result_xdr: result },
  });
}

function timeout(hash: string): Problem {
  return new Problem("transaction_submission_timeout", {
    title: "Transaction Submission Timeout",
    status: 504,
    detail: "The transaction has not been seen in a ledger yet. Look it up by its hash.",
    extras: { hash },
  });
}

function problemAnswer(problem: Problem): Answer {
  return { status: problem.status, body: problem.body() };
}

function statusAnswer(hash: string, status: string, code: number): Answer {
  return { status: code, body: { hash, tx_status: status } };
}
