import { z } from "zod";
import { parseStroops } from "../lib/money.ts";

/** What a network says of one account. */
export interface ChainAccount {
  sequence: bigint;
  balances: { code: string; issuer: string; stroops: bigint }[];
  /** Who may sign for it, the account's own key too. */
  signers: { key: string; weight: number }[];
  /** The weight that payments, and proofs of who somebody is, need. */
  mediumThreshold: number;
}

/** What became of a transaction that is in a ledger. */
export interface ChainTransaction {
  hash: string;
  /** Of the transaction that a fee bump wraps. Null without one. */
  innerHash: string | null;
  successful: boolean;
  ledger: number;
  source: string;
  sourceSequence: bigint;
  resultXdr: string;
}

/** The answer to a submission. `unknown` says nothing: the transaction may be applied, now or later. */
export type SubmitReply =
  | { kind: "applied"; hash: string }
  | { kind: "refused"; code: string; operationCodes: string[] }
  | { kind: "unknown"; detail: string };

/** A payment that is in a ledger, or another operation that Horizon lists among them: one to nobody. */
export interface ChainPayment {
  /** Of its operation. */
  pagingToken: string;
  /** Which of the payments of its operation: a call of a contract may make many. */
  index: number;
  transactionHash: string;
  successful: boolean;
  from: string;
  to: string;
  code: string;
  issuer: string;
  stroops: bigint;
  /** The text memo of its transaction. Null: it has none, or one of another type. */
  memo: string | null;
  /** When its ledger closed. */
  at: Date;
}

/** The part of Horizon that settlement needs. Every call has a deadline; all but `submit` throw when unanswered. */
export interface Horizon {
  /** The newest ledger's number and close time, in seconds. */
  latestLedger(): Promise<{ sequence: number; closeTime: number }>;
  /** Null when there is no such account. */
  findAccount(address: string): Promise<ChainAccount | null>;
  /** Null when no ledger that Horizon knows holds it. Never a proof that none will. */
  findTransaction(hash: string): Promise<ChainTransaction | null>;
  /** An account's newest transactions, failed ones too. */
  listTransactions(address: string, limit: number): Promise<ChainTransaction[]>;
  /**
   * An account's payments after the cursor, oldest first: those of so many operations, each with at least one. What
   * contracts move of an asset that is no contract's own is among them.
   */
  listPayments(address: string, page: { cursor: string; limit: number }): Promise<ChainPayment[]>;
  /** The paging token of an account's newest payment. "0" before the first. */
  newestPayment(address: string): Promise<string>;
  submit(envelope: string): Promise<SubmitReply>;
  /** Make and fund an account, on networks that give away money. */
  fund(address: string): Promise<void>;
}

const readTimeoutMs = 10_000;
const submitTimeoutMs = 40_000;

const rootBody = z.object({
  history_latest_ledger: z.number(),
  history_latest_ledger_closed_at: z.string(),
});
const accountBody = z.object({
  sequence: z.string(),
  balances: z.array(
    z.object({
      balance: z.string(),
      asset_code: z.string().default("XLM"),
      asset_issuer: z.string().default(""),
    }),
  ),
  signers: z.array(z.object({ key: z.string(), weight: z.number() })),
  thresholds: z.object({ med_threshold: z.number() }),
});
const transactionBody = z.object({
  hash: z.string(),
  successful: z.boolean(),
  ledger: z.number(),
  source_account: z.string(),
  source_account_sequence: z.string(),
  inner_transaction: z.object({ hash: z.string() }).optional(),
  result_xdr: z.string(),
});
const movedBody = z.object({
  from: z.string().default(""),
  to: z.string().default(""),
  amount: z.string().default("0"),
  asset_code: z.string().default("XLM"),
  asset_issuer: z.string().default(""),
});
const paymentBody = movedBody.extend({
  paging_token: z.string(),
  type: z.string(),
  transaction_hash: z.string(),
  transaction_successful: z.boolean(),
  asset_balance_changes: z.array(movedBody).nullish(),
  created_at: z.string(),
  transaction: z.object({ memo_type: z.string(), memo: z.string().default("") }).optional(),
});
const newestBody = z.object({ paging_token: z.string() });
const problemBody = z.object({
  extras: z.object({
    result_codes: z.object({
      transaction: z.string(),
      inner_transaction: z.string().optional(),
      operations: z.array(z.string()).default([]),
    }),
  }),
});

function page<T extends z.ZodType>(record: T) {
  return z.object({ _embedded: z.object({ records: z.array(record) }) });
}

/** A client of the Horizon at the address. */
export function createHorizon(url: string): Horizon {
  async function read<T extends z.ZodType>(path: string, schema: T): Promise<z.infer<T> | null> {
    const response = await fetch(new URL(path, url), {
      signal: AbortSignal.timeout(readTimeoutMs),
    });
    if (response.status === 404) {
      await response.body?.cancel();
      return null;
    }
    if (!response.ok) {
      await response.body?.cancel();
      throw new Error(`Cannot read ${path} from Horizon: status ${response.status}`);
    }
    return schema.parse(await response.json());
  }

  async function mustRead<T extends z.ZodType>(path: string, schema: T): Promise<z.infer<T>> {
    const body = await read(path, schema);
    if (body === null) {
      throw new Error(`Cannot read ${path} from Horizon: not found`);
    }
    return body;
  }

  return {
    async latestLedger() {
      const body = await mustRead("/", rootBody);
      const closeTime = Math.floor(Date.parse(body.history_latest_ledger_closed_at) / 1000);
      return { sequence: body.history_latest_ledger, closeTime };
    },
    async findAccount(address) {
      const body = await read(`/accounts/${address}`, accountBody);
      return body === null ? null : toAccount(body);
    },
    async findTransaction(hash) {
      const body = await read(`/transactions/${hash}`, transactionBody);
      return body === null ? null : toTransaction(body);
    },
    async listTransactions(address, limit) {
      const query = `order=desc&limit=${limit}&include_failed=true`;
      const path = `/accounts/${address}/transactions?${query}`;
      const body = await mustRead(path, page(transactionBody));
      return body._embedded.records.map(toTransaction);
    },
    async listPayments(address, { cursor, limit }) {
      const query = `order=asc&limit=${limit}&cursor=${cursor}&join=transactions`;
      const body = await mustRead(`/accounts/${address}/payments?${query}`, page(paymentBody));
      return body._embedded.records.flatMap(toPayments);
    },
    async newestPayment(address) {
      const path = `/accounts/${address}/payments?order=desc&limit=1`;
      const body = await mustRead(path, page(newestBody));
      return body._embedded.records[0]?.paging_token ?? "0";
    },
    submit: (envelope) => submit(url, envelope),
    async fund(address) {
      const signal = AbortSignal.timeout(submitTimeoutMs);
      const response = await fetch(new URL(`/friendbot?addr=${address}`, url), { signal });
      const text = await response.text();
      if (!response.ok) {
        throw new Error(`Cannot fund ${address}: ${text.slice(0, 300)}`);
      }
    },
  };
}

async function submit(url: string, envelope: string): Promise<SubmitReply> {
  try {
    const response = await fetch(new URL("/transactions", url), {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: new URLSearchParams({ tx: envelope }).toString(),
      signal: AbortSignal.timeout(submitTimeoutMs),
    });
    const body: unknown = await response.json();
    if (response.ok) {
      return { kind: "applied", hash: transactionBody.parse(body).hash };
    }
    const problem = problemBody.safeParse(body);
    if (response.status !== 400 || !problem.success) {
      return { kind: "unknown", detail: `status ${response.status}` };
    }
    const { transaction, inner_transaction, operations } = problem.data.extras.result_codes;
    return { kind: "refused", code: inner_transaction ?? transaction, operationCodes: operations };
  } catch (error) {
    return { kind: "unknown", detail: error instanceof Error ? error.message : "no answer" };
  }
}

function toAccount(body: z.infer<typeof accountBody>): ChainAccount {
  return {
    sequence: BigInt(body.sequence),
    balances: body.balances.map(({ balance, asset_code, asset_issuer }) => ({
      code: asset_code,
      issuer: asset_issuer,
      stroops: parseStroops(balance),
    })),
    signers: body.signers,
    mediumThreshold: body.thresholds.med_threshold,
  };
}

function toTransaction(body: z.infer<typeof transactionBody>): ChainTransaction {
  return {
    hash: body.hash,
    innerHash: body.inner_transaction?.hash ?? null,
    successful: body.successful,
    ledger: body.ledger,
    source: body.source_account,
    sourceSequence: BigInt(body.source_account_sequence),
    resultXdr: body.result_xdr,
  };
}

/** What an account can hold. Contracts can hold more, of any asset that somebody makes up. */
const accountAmount = /^\d{1,12}(?:\.\d{1,7})?$/;

/** A call of a contract says what it moved in a list, anything else is one payment. */
function toPayments(body: z.infer<typeof paymentBody>): ChainPayment[] {
  const listed = body.asset_balance_changes ?? [];
  const changes = listed.filter(({ amount }) => accountAmount.test(amount));
  const moves = changes.length === 0 ? [body] : changes;
  return moves.map((move, index) => ({
    pagingToken: body.paging_token,
    index,
    transactionHash: body.transaction_hash,
    successful: body.transaction_successful,
    from: move.from,
    to: move.to,
    code: move.asset_code,
    issuer: move.asset_issuer,
    stroops: parseStroops(move.amount),
    memo: body.transaction?.memo_type === "text" ? body.transaction.memo : null,
    at: new Date(body.created_at),
  }));
}
