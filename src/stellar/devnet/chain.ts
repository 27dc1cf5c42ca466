import { type Books, openBooks } from "./books.ts";
import { createCloser } from "./closing.ts";
import { type Envelope, networkId, parseEnvelope } from "./envelope.ts";
import { createFriendbot, type Funding } from "./friendbot.ts";
import type { History, TransactionRow } from "./history.ts";
import type { LedgerPosition } from "./ledger.ts";
import { type LedgerView, ledgerAt, nextPosition } from "./ledger-clock.ts";
import { createQueue, type Submission } from "./queue.ts";
import type { Account } from "./state.ts";
import { createWaiters } from "./waiters.ts";

/** What makes a ledger this ledger, and where and how it is kept. */
export type ChainOptions = {
  /** Where the log lies. Made when missing. */
  directory: string;
  passphrase: string;
  /** Seed of the account that holds all XLM at first and that the friendbot gives from. */
  masterSecret: string;
  now: () => Date;
  /** How long after a submission the ledger closes. Null: only when told to. */
  closeDelayMs: number | null;
  /** Hears why a ledger could not be closed. */
  onError: (error: unknown) => void;
};

/** A ledger that takes transactions, closes, remembers and answers. */
export type Chain = {
  passphrase: string;
  /** The account that the friendbot gives from. */
  rootAddress: string;
  history: History;
  account(id: string): Account | undefined;
  accounts(): Iterable<Account>;
  feePool(): bigint;
  latest(): LedgerView;
  ledger(sequence: number): LedgerView | null;
  /** Parse with this ledger's own passphrase: what the client signed for is not to be trusted. */
  parse(base64: string): Envelope;
  submit(envelope: Envelope): Submission;
  /** Wait until a ledger holds the transaction; null when that takes too long or it was dropped. */
  settled(hash: string, signal: AbortSignal): Promise<TransactionRow | null>;
  /** The log's record of a transaction. */
  read: Books["read"];
  fund(address: string): Promise<Funding>;
  /** Close a ledger now, even an empty one. */
  close(): Promise<LedgerPosition>;
  /** Close nothing more and let go of the file. */
  stop(): Promise<void>;
};

/** Most transactions kept; the index of one takes some hundred bytes of memory. */
const transactionsMax = 500_000;

/** Open the ledger in a directory, or begin one. Throws when it belongs to another network. */
export async function openChain(options: ChainOptions): Promise<Chain> {
  const { directory, passphrase, masterSecret, now, closeDelayMs, onError } = options;
  const network = networkId(passphrase);
  const friendbot = createFriendbot(masterSecret, passphrase);
  const rootAddress = friendbot.address;
  const books = await openBooks(directory, { passphrase, root: rootAddress, now: now() });
  const { accounts, history } = books;
  const waiters = createWaiters<TransactionRow>();
  const queue = createQueue((envelope) => onSettled(envelope, null));
  const closer = createCloser({
    books,
    queue,
    friendbot,
    network,
    now,
    closeDelayMs,
    onSettled,
    onError,
  });
  let isStopped = false;

  function onSettled({ hash, transaction }: Envelope, row: TransactionRow | null): void {
    waiters.answer(hash, row);
    waiters.answer(transaction.hash.toString("hex"), row);
  }

  const isFull = () => isStopped || history.transactions.length >= transactionsMax;

  return {
    passphrase,
    rootAddress,
    history,
    account: (id) => accounts.get(id),
    accounts: () => accounts.all(),
    feePool: () => closer.latest().row.feePool,
    latest: closer.latest,
    ledger: (sequence) => ledgerAt(history.ledgers, sequence, closer.latest()),
    parse: (base64) => parseEnvelope(base64, network),
    submit(envelope) {
      if (isFull()) return { status: "full" };
      const submission = queue.submit(envelope, accounts, nextPosition(closer.latest(), now()));
      if (submission.status === "pending") closer.schedule();
      return submission;
    },
    settled(hash, signal) {
      const known = history.find(hash);
      return known || isStopped ? Promise.resolve(known ?? null) : waiters.wait(hash, signal);
    },
    read: books.read,
    fund(address) {
      if (accounts.get(address)) return Promise.resolve("exists");
      if (isFull()) return Promise.resolve("full");
      const funding = friendbot.fund(address);
      closer.schedule();
      return funding;
    },
    close: closer.close,
    async stop() {
      if (isStopped) return;
      isStopped = true;
      await closer.stop();
      waiters.answerAll(null);
      friendbot.stop();
      await books.close();
    },
  };
}
