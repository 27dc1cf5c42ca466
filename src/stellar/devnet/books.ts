import { createHistory, type History, type TransactionRow } from "./history.ts";
import { type Location, type Log, openLog } from "./log.ts";
import {
  decodeRecord,
  encodeRecord,
  type LedgerRecord,
  ledgerHash,
  type TransactionRecord,
} from "./record.ts";
import { type Account, type Accounts, accountMap, newAccount } from "./state.ts";

/** The accounts and everything that happened, in memory and on disk. */
export type Books = {
  accounts: Accounts & { all(): Iterable<Account> };
  history: History;
  /** Write a ledger down, then show it. Nobody sees what a crash could take back. */
  enter(record: LedgerRecord): Promise<void>;
  /** The record of a transaction, from the log. */
  read(row: TransactionRow): Promise<TransactionRecord>;
  close(): Promise<void>;
};

const formatVersion = 1;
const genesisBalance = 10n ** 18n;
const recordsCachedMax = 32;

/** Open the books in a directory, or begin them. Throws when they are another network's. */
export async function openBooks(
  directory: string,
  { passphrase, root, now }: { passphrase: string; root: string; now: Date },
): Promise<Books> {
  const accounts = accountMap();
  const history = createHistory();
  const header = JSON.stringify({ version: formatVersion, passphrase, root });
  let isNew = true;
  const log = await openLog(directory, (text, location) => {
    if (isNew && text !== header) {
      throw new Error("Cannot open ledger log: it belongs to another network or root account");
    }
    if (!isNew) show(decodeRecord(text), location);
    isNew = false;
  });

  function show(record: LedgerRecord, location: Location): void {
    for (const account of record.accounts) accounts.put(account);
    for (const id of record.removed) accounts.remove(id);
    history.add(record, location);
  }

  async function enter(record: LedgerRecord): Promise<void> {
    show(record, await log.append(encodeRecord(record)));
  }

  if (isNew) await log.append(header);
  if (history.ledgers.length === 0) await enter(genesis(header, root, now));
  return { accounts, history, enter, read: recordReader(log), close: () => log.close() };
}

function genesis(header: string, root: string, now: Date): LedgerRecord {
  const previousHash = "0".repeat(64);
  return {
    sequence: 1,
    closeTime: Math.floor(now.getTime() / 1000),
    hash: ledgerHash(previousHash, 1, header),
    previousHash,
    feePool: 0n,
    accounts: [newAccount(root, genesisBalance, 0)],
    removed: [],
    transactions: [],
  };
}

/** Read records from the log, keeping the last few ledgers in memory. */
function recordReader(log: Log): Books["read"] {
  const cache = new Map<number, Promise<LedgerRecord>>();
  return async ({ ledger, order, hash }) => {
    const cached = cache.get(ledger.sequence) ?? log.read(ledger.location).then(decodeRecord);
    cache.delete(ledger.sequence);
    cache.set(ledger.sequence, cached);
    for (const oldest of cache.keys()) {
      if (cache.size <= recordsCachedMax) break;
      cache.delete(oldest);
    }
    const record = (await cached).transactions[order - 1];
    if (record === undefined)
      throw new Error(`Cannot read transaction "${hash}": not in its ledger`);
    return record;
  };
}
