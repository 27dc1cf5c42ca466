import {
  type BalanceKey,
  type Kind,
  type Mode,
  platformAccountId,
  type Transfer,
} from "../ledger/store.ts";
import { branch } from "../lib/branch.ts";
import { inTurns } from "../lib/turns.ts";
import type { Candidate, NewEvent } from "./decide.ts";

/** A transfer whose cause is the batch that it is posted with. */
export type ShareOfBatch = Omit<Transfer, "source">;

/**
 * The balances that decide what pays for the candidates: they are locked before.
 *
 * A consumer's own balance is not among them while leases have enough for all: whoever wants a new lease would wait.
 */
export async function payingBalances(
  candidates: readonly Candidate[],
  leftOf: (accountId: string, mode: Mode, leaseId: string) => bigint,
): Promise<BalanceKey[]> {
  const keys = createKeys();
  const taken = new Map<string, bigint>();
  const unleased = new Set<string>();
  await inTurns(candidates, ({ entry }) => {
    const { account, mode, lease, chargedNanos } = entry;
    if (chargedNanos === 0n) {
      return;
    }
    if (lease === null) {
      const purse = `${account} ${mode}`;
      if (!unleased.has(purse)) {
        unleased.add(purse);
        keys.add(account, mode, "consumer", "consumer_receivable");
      }
      return;
    }
    keys.add(account, mode, "lease_escrow");
    const name = `${account} ${lease} ${mode}`;
    const sum = (taken.get(name) ?? 0n) + chargedNanos;
    taken.set(name, sum);
    if (sum > leftOf(account, mode, lease)) {
      keys.add(account, mode, "consumer", "consumer_receivable");
    }
  });
  return keys.all();
}

/** The other balances that applying the candidates may move. Nothing is decided by them. */
export function earningBalances(candidates: readonly Candidate[]): BalanceKey[] {
  const keys = createKeys();
  for (const { entry } of candidates) {
    const { account, mode, price } = entry;
    keys.add(account, mode, "clearing");
    keys.add(price.developerId, mode, "clearing", "payable");
    keys.add(platformAccountId, mode, "clearing", "platform_fee");
  }
  return keys.all();
}

/** Keys, each once. */
function createKeys() {
  const keys = new Map<string, BalanceKey>();
  return {
    add(accountId: string, mode: Mode, ...kinds: Kind[]) {
      for (const kind of kinds) {
        keys.set(`${accountId} ${kind} ${mode}`, { accountId, kind, mode });
      }
    },
    all: () => [...keys.values()],
  };
}

/** What was taken from an account, or came to it. */
interface Sums {
  accountId: string;
  mode: Mode;
  leasedNanos: bigint;
  owedNanos: bigint;
  chargedNanos: bigint;
  earnedNanos: bigint;
  feeNanos: bigint;
}

/** The money of applied events: from leases, balances and debts to the developers and the platform. */
export async function transfersOf(events: readonly NewEvent[]): Promise<ShareOfBatch[]> {
  const sums: Sums[] = [];
  const byAccount = new Map<string, Map<Mode, Sums>>();
  function sumsOf(accountId: string, mode: Mode): Sums {
    const byMode = branch(byAccount, accountId);
    let known = byMode.get(mode);
    if (known === undefined) {
      const taken = { leasedNanos: 0n, owedNanos: 0n, chargedNanos: 0n };
      known = { accountId, mode, ...taken, earnedNanos: 0n, feeNanos: 0n };
      byMode.set(mode, known);
      sums.push(known);
    }
    return known;
  }
  await inTurns(events, ({ entry, leasedNanos, owedNanos, feeNanos }) => {
    const { account, mode, price, chargedNanos } = entry;
    const consumer = sumsOf(account, mode);
    consumer.leasedNanos += leasedNanos;
    consumer.owedNanos += owedNanos;
    consumer.chargedNanos += chargedNanos;
    sumsOf(price.developerId, mode).earnedNanos += chargedNanos - feeNanos;
    sumsOf(platformAccountId, mode).feeNanos += feeNanos;
  });
  return sums.flatMap(transfersOfSums).filter(({ amountNanos }) => amountNanos > 0n);
}

function transfersOfSums({ accountId, mode, ...sums }: Sums): ShareOfBatch[] {
  const { leasedNanos, owedNanos, chargedNanos, earnedNanos, feeNanos } = sums;
  const from = { accountId, mode, credit: "clearing" } as const;
  const to = { accountId, mode, debit: "clearing" } as const;
  return [
    { ...from, debit: "lease_escrow", amountNanos: leasedNanos },
    { ...from, debit: "consumer", amountNanos: chargedNanos - leasedNanos - owedNanos },
    { ...from, debit: "consumer_receivable", amountNanos: owedNanos },
    { ...to, credit: "payable", amountNanos: earnedNanos },
    { ...to, credit: "platform_fee", amountNanos: feeNanos },
  ];
}
