/** Stroops charged for each operation of a transaction. */
export const baseFee = 100n;
/** Stroops that each entry of an account locks; an account itself counts as two. */
export const baseReserve = 5_000_000n;
/** Largest amount of anything, as the network's int64. */
export const amountMax = 2n ** 63n - 1n;
/** Most trust lines, signers and data entries of one account together. */
export const subentriesMax = 1000;
/** Most signers beside the master key. */
export const signersMax = 20;
/** Most operations in one ledger. */
export const ledgerOperationsMax = 1000;

/** Bits of an account's flags. */
export const authRequired = 1;
export const authRevocable = 2;
export const authImmutable = 4;
export const authClawback = 8;

/** What an account holds of one issued asset. */
export type TrustLine = {
  code: string;
  issuer: string;
  balance: bigint;
  limit: bigint;
  authorized: boolean;
  lastModified: number;
};

/** A key that may sign for an account beside its own. */
export type Signer = { key: string; weight: number };

/** An account with everything under it. Values are never changed in place. */
export type Account = {
  id: string;
  balance: bigint;
  sequence: bigint;
  sequenceLedger: number;
  sequenceTime: number;
  flags: number;
  homeDomain: string;
  inflationDestination: string;
  masterWeight: number;
  thresholds: { low: number; medium: number; high: number };
  signers: readonly Signer[];
  trustLines: ReadonlyMap<string, TrustLine>;
  /** Data entries, base64. */
  data: ReadonlyMap<string, string>;
  lastModified: number;
};

/** Read and change accounts. */
export type Accounts = {
  get(id: string): Account | undefined;
  put(account: Account): void;
  remove(id: string): void;
};

/** Changes on top of accounts that stay as they are; null marks a removed account. */
export type Overlay = Accounts & { changes: ReadonlyMap<string, Account | null> };

/** A new account as `createAccount` leaves it. */
export function newAccount(id: string, balance: bigint, ledger: number): Account {
  return {
    id,
    balance,
    sequence: BigInt(ledger) << 32n,
    sequenceLedger: 0,
    sequenceTime: 0,
    flags: 0,
    homeDomain: "",
    inflationDestination: "",
    masterWeight: 1,
    thresholds: { low: 0, medium: 0, high: 0 },
    signers: [],
    trustLines: new Map(),
    data: new Map(),
    lastModified: ledger,
  };
}

/** How many entries an account's reserve pays for. */
export function subentryCount(account: Account): number {
  return account.signers.length + account.trustLines.size + account.data.size;
}

/** Stroops an account may not spend. `added` counts entries about to be made. */
export function minBalance(account: Account, added = 0): bigint {
  return BigInt(2 + subentryCount(account) + added) * baseReserve;
}

/** Stroops an account may spend. Negative when fees have eaten into the reserve. */
export function availableBalance(account: Account): bigint {
  return account.balance - minBalance(account);
}

/** Collect changes without touching what lies below, so that dropping them is the rollback. */
export function overlay(below: Pick<Accounts, "get">): Overlay {
  const changes = new Map<string, Account | null>();
  return {
    changes,
    get(id) {
      const changed = changes.get(id);
      return changed === undefined ? below.get(id) : (changed ?? undefined);
    },
    put: (account) => void changes.set(account.id, account),
    remove: (id) => void changes.set(id, null),
  };
}

/** Put the changes of an overlay into the accounts below it. */
export function commit(changes: ReadonlyMap<string, Account | null>, below: Accounts): void {
  for (const [id, account] of changes) {
    if (account === null) below.remove(id);
    else below.put(account);
  }
}

/** Accounts in memory, with no layer below. */
export function accountMap(): Accounts & { all(): Iterable<Account> } {
  const map = new Map<string, Account>();
  return {
    get: (id) => map.get(id),
    put: (account) => void map.set(account.id, account),
    remove: (id) => void map.delete(id),
    all: () => map.values(),
  };
}
