import { StrKey } from "@stellar/stellar-sdk/base";
import { accountJson } from "./account-json.ts";
import type { Chain } from "./chain.ts";
import type { TransactionRow } from "./history.ts";
import { badRequest, notFound, overloaded, Problem } from "./http.ts";
import { feeStatsJson, ledgerJson, rootJson } from "./ledger-json.ts";
import { operationJson } from "./operation-json.ts";
import { pageJson, pagingToken, parsePageQuery, takePage } from "./paging.ts";
import { type FullTransaction, transactionJson, transactionToken } from "./transaction-json.ts";

/** A question: the address asked for, with the base that links start with. */
export type Question = { url: URL; base: string };

type Answer = object | Promise<object>;
type Route = { pattern: RegExp; answer(question: Question, ...matched: string[]): Answer };

/** Answers questions about the ledger as Horizon does. Throws a problem when it cannot. */
export type Horizon = {
  ask(question: Question): Promise<object>;
  /** Make and fund an account. Answers with the transaction that did it. */
  fund(address: string, question: Question): Promise<object>;
};

/** Make the reading side of Horizon on a chain. */
export function createHorizon(chain: Chain): Horizon {
  const routes: Route[] = [
    { pattern: /^\/$/, answer: ({ base }) => rootJson(chain, base) },
    { pattern: /^\/fee_stats$/, answer: () => feeStatsJson(chain) },
    { pattern: /^\/ledgers$/, answer: (question) => ledgerPage(chain, question) },
    {
      pattern: /^\/ledgers\/(\d{1,9})$/,
      answer({ base }, sequence) {
        const view = chain.ledger(Number(sequence));
        if (view === null) throw notFound();
        return ledgerJson(view, base);
      },
    },
    { pattern: /^\/accounts\/([^/]+)$/, answer: ({ base }, id) => oneAccount(chain, id, base) },
    {
      pattern: /^\/accounts\/([^/]+)\/transactions$/,
      answer: (question, id) => accountTransactions(chain, question, id),
    },
    {
      pattern: /^\/accounts\/([^/]+)\/(operations|payments)$/,
      answer: (question, id, kind) => accountOperations(chain, question, { id, kind }),
    },
    {
      pattern: /^\/transactions$/,
      answer: (question) => transactionPage(chain, question, chain.history.transactions),
    },
    {
      pattern: /^\/transactions\/([0-9a-fA-F]{64})$/,
      async answer({ base }, hash) {
        const row = rowOf(chain, hash);
        return transactionJson(await full(chain, row), { base, hash: hash?.toLowerCase() ?? "" });
      },
    },
    {
      pattern: /^\/transactions\/([0-9a-fA-F]{64})\/(operations|payments)$/,
      answer: (question, hash, kind) => transactionOperations(chain, question, { hash, kind }),
    },
  ];

  return {
    async ask(question) {
      for (const { pattern, answer } of routes) {
        const matched = pattern.exec(question.url.pathname);
        if (matched) return answer(question, ...matched.slice(1));
      }
      throw notFound();
    },
    async fund(address, { base }) {
      if (!StrKey.isValidEd25519PublicKey(address)) {
        throw badRequest("addr", "must be an account address");
      }
      const funding = await chain.fund(address);
      if (funding === "full") throw overloaded();
      const first = chain.history.participation(address).transactions[0];
      const row = first === undefined ? undefined : chain.history.transactions[first];
      if (funding !== "funded" || !row) {
        const isThere = funding === "exists";
        const detail = isThere ? "The account exists already." : "The account was not funded.";
        throw new Problem("bad_request", { title: "Bad Request", status: 400, detail });
      }
      return transactionJson(await full(chain, row), { base });
    },
  };
}

function oneAccount(chain: Chain, id: string | undefined, base: string): object {
  const account = chain.account(addressParameter(id));
  if (!account) throw notFound();
  return accountJson(account, chain, base);
}

function ledgerPage(chain: Chain, { url, base }: Question): object {
  const query = parsePageQuery(url.searchParams);
  const latest = chain.latest().sequence;
  const list = {
    length: latest,
    at: (index: number) => chain.ledger(index + 1) ?? undefined,
  };
  const isWanted = () => true;
  const page = takePage(list, ({ sequence }) => pagingToken(sequence), { query, isWanted });
  const records = page.map((view) => ledgerJson(view, base));
  return pageJson(records, { url, query });
}

function accountTransactions(chain: Chain, question: Question, id?: string): Promise<object> {
  const { transactions } = participationOf(chain, id);
  return transactionPage(chain, question, {
    length: transactions.length,
    at: (index) => chain.history.transactions[transactions[index] ?? -1],
  });
}

async function transactionPage(
  chain: Chain,
  { url, base }: Question,
  rows: { length: number; at(index: number): TransactionRow | undefined },
): Promise<object> {
  const query = parsePageQuery(url.searchParams);
  const withFailed = includesFailed(url);
  const isWanted = (row: TransactionRow) => withFailed || row.isSuccessful;
  const page = takePage(rows, transactionToken, { query, isWanted });
  const records = [];
  for (const row of page) records.push(transactionJson(await full(chain, row), { base }));
  return pageJson(records, { url, query });
}

function accountOperations(
  chain: Chain,
  question: Question,
  { id, kind }: { id: string | undefined; kind: string | undefined },
): Promise<object> {
  const participation = participationOf(chain, id);
  const list = kind === "payments" ? participation.payments : participation.operations;
  const withFailed = includesFailed(question.url);
  const isWanted = (operation: number) =>
    withFailed || chain.history.holderOf(operation).isSuccessful;
  return operationPage(chain, question, { list, isWanted });
}

function transactionOperations(
  chain: Chain,
  question: Question,
  { hash, kind }: { hash: string | undefined; kind: string | undefined },
): Promise<object> {
  const { firstOperation, operations } = rowOf(chain, hash);
  const list = Array.from({ length: operations }, (_, index) => firstOperation + index);
  const isWanted = (operation: number) =>
    kind === "operations" || chain.history.isPayment(operation);
  return operationPage(chain, question, { list, isWanted });
}

async function operationPage(
  chain: Chain,
  { url, base }: Question,
  { list, isWanted }: { list: readonly number[]; isWanted: (operation: number) => boolean },
): Promise<object> {
  const query = parsePageQuery(url.searchParams);
  const isJoined = url.searchParams.get("join") === "transactions";
  const page = takePage(list, (operation) => operationToken(chain, operation), {
    query,
    isWanted,
  });
  const records = [];
  let last: FullTransaction | null = null;
  for (const operation of page) {
    const row = chain.history.holderOf(operation);
    if (last?.row !== row) last = await full(chain, row);
    records.push(operationJson(last, operation - row.firstOperation, { base, isJoined }));
  }
  return pageJson(records, { url, query });
}

function operationToken(chain: Chain, operation: number): bigint {
  const row = chain.history.holderOf(operation);
  return pagingToken(row.ledger.sequence, row.order, operation - row.firstOperation + 1);
}

/** An account that was merged away still has a history. */
function participationOf(chain: Chain, id: string | undefined) {
  const address = addressParameter(id);
  const participation = chain.history.participation(address);
  if (!chain.account(address) && participation.transactions.length === 0) throw notFound();
  return participation;
}

async function full(chain: Chain, row: TransactionRow): Promise<FullTransaction> {
  const record = await chain.read(row);
  return { row, record, envelope: chain.parse(record.envelope) };
}

function rowOf(chain: Chain, hash: string | undefined): TransactionRow {
  const row = chain.history.find(hash?.toLowerCase() ?? "");
  if (!row) throw notFound();
  return row;
}

function addressParameter(id: string | undefined): string {
  if (id !== undefined && StrKey.isValidEd25519PublicKey(id)) return id;
  throw badRequest("account_id", "must be an account address");
}

function includesFailed(url: URL): boolean {
  return url.searchParams.get("include_failed") === "true";
}
