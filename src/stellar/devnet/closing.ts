import type { Books } from "./books.ts";
import { type Envelope, parseEnvelope } from "./envelope.ts";
import type { Friendbot } from "./friendbot.ts";
import type { TransactionRow } from "./history.ts";
import { type AppliedLedger, applyLedger, type LedgerPosition } from "./ledger.ts";
import { type LedgerView, latestLedger, nextPosition } from "./ledger-clock.ts";
import { toTransactionRecord } from "./participants.ts";
import type { Queue } from "./queue.ts";
import { type LedgerRecord, ledgerHash } from "./record.ts";

/** Closes ledgers one after the other. */
export type Closer = {
  latest(): LedgerView;
  /** Close a ledger soon, unless ledgers close only when told to. */
  schedule(): void;
  /** Close a ledger now, even an empty one. */
  close(): Promise<LedgerPosition>;
  /** Close nothing more, once what is being closed is done. */
  stop(): Promise<void>;
};

/** What a closer works with. `onSettled` hears what became of each transaction. */
export type CloserOptions = {
  books: Books;
  queue: Queue;
  friendbot: Friendbot;
  network: Buffer;
  now: () => Date;
  closeDelayMs: number | null;
  onSettled: (envelope: Envelope, row: TransactionRow | null) => void;
  onError: (error: unknown) => void;
};

/** How far quick ledgers may run ahead of the clock before the next one has to wait. */
const leadSecondsMax = 30;
const leadCheckMs = 1000;

/** Make a closer. Nothing closes until something is scheduled. */
export function createCloser(options: CloserOptions): Closer {
  const { books, queue, friendbot, now, closeDelayMs } = options;
  let timer: NodeJS.Timeout | null = null;
  let turn: Promise<unknown> = Promise.resolve();
  let frozen: LedgerView | null = null;
  let isStopped = false;

  // While a ledger is being written, the number it will have must not be given to an empty one.
  const latest = () => frozen ?? latestLedger(books.history.ledgers, now());

  function schedule(delayMs = closeDelayMs): void {
    if (isStopped || delayMs === null || timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      const lead = nextPosition(latest(), now()).closeTime - now().getTime() / 1000;
      if (lead > leadSecondsMax) return schedule(leadCheckMs);
      // Whoever waits for a ledger that cannot be written is answered with a timeout.
      inTurn(false).catch(options.onError);
    }, delayMs);
  }

  function inTurn(isForced: boolean): Promise<LedgerPosition> {
    const closed = turn.then(() => closeLedger(isForced));
    turn = closed.catch(() => {});
    return closed;
  }

  async function closeLedger(isForced: boolean): Promise<LedgerPosition> {
    const before = latest();
    const position = nextPosition(before, now());
    const granting = submitFunding(options, position);
    const { taken, dropped } = queue.take(books.accounts, position);
    for (const envelope of dropped) options.onSettled(envelope, null);
    frozen = before;
    try {
      if (taken.length === 0 && !isForced) return before;
      const applied = applyLedger(taken, books.accounts, position);
      await books.enter(toLedgerRecord(applied, { position, before }));
      return position;
    } finally {
      frozen = null;
      queue.settle(taken);
      const rowOf = (hash: string) => books.history.find(hash) ?? null;
      for (const envelope of taken) options.onSettled(envelope, rowOf(envelope.hash));
      const isFunded = granting !== null && rowOf(granting)?.isSuccessful === true;
      friendbot.settle(isFunded ? "funded" : "failed");
      if (!queue.isEmpty() || !friendbot.isIdle()) schedule();
    }
  }

  return {
    latest,
    schedule: () => schedule(),
    close: () => inTurn(true),
    async stop() {
      isStopped = true;
      if (timer !== null) clearTimeout(timer);
      await turn;
    },
  };
}

/** Gives the hash of the friendbot's transaction, null when it has none in this ledger. */
function submitFunding(
  { books, queue, friendbot, network }: CloserOptions,
  position: LedgerPosition,
): string | null {
  const root = books.accounts.get(friendbot.address);
  if (!root || friendbot.isIdle() || queue.holds(root.id)) return null;
  const base64 = friendbot.build(root, (id) => books.accounts.get(id) !== undefined);
  if (base64 === null) return null;
  const envelope = parseEnvelope(base64, network);
  const { status } = queue.submit(envelope, books.accounts, position);
  return status === "pending" ? envelope.hash : null;
}

function toLedgerRecord(
  { changes, fees, outcomes }: AppliedLedger,
  { position, before }: { position: LedgerPosition; before: LedgerView },
): LedgerRecord {
  const transactions = outcomes.map(({ envelope, outcome }) =>
    toTransactionRecord(envelope, outcome),
  );
  const facts = transactions.map(({ hash, result }) => `${hash}${result}`).join(" ");
  return {
    ...position,
    hash: ledgerHash(before.hash, position.sequence, `${position.closeTime} ${facts}`),
    previousHash: before.hash,
    feePool: before.row.feePool + fees,
    accounts: [...changes.values()].filter((account) => account !== null),
    removed: [...changes].filter(([, account]) => account === null).map(([id]) => id),
    transactions,
  };
}
