import type { Tx } from "../db/pool.ts";
import { between, type Kind, lockBalances, type Mode, postTransfers } from "./store.ts";

/** Credit that comes into an account. */
export interface Grant {
  id: string;
  accountId: string;
  mode: Mode;
  amountNanos: bigint;
  /** Whose money it was, and of which kind. */
  from: { accountId: string; kind: Kind };
  /** Names the cause of its transfers, together with its id. */
  sourceType: string;
}

/** What became of a grant when it was posted. */
export interface PostedGrant {
  /** What of it paid a debt. */
  repaidNanos: bigint;
  /** What the account has after all of them, available and set aside. */
  heldNanos: bigint;
}

/**
 * Post grants, in their order: each pays what the account owes first, and the rest is the account's to spend.
 *
 * They must be the only posting of their transaction. Returns what became of each.
 */
export async function postGrants(
  tx: Tx,
  grants: readonly Grant[],
  now: Date,
): Promise<PostedGrant[]> {
  const heldBy = await lockBalances(
    tx,
    grants.flatMap(({ accountId, mode, from }) => [
      { ...from, mode },
      { accountId, kind: "consumer", mode },
      { accountId, kind: "consumer_receivable", mode },
      { accountId, kind: "lease_escrow", mode },
      { accountId: from.accountId, kind: "clearing", mode },
      { accountId, kind: "clearing", mode },
    ]),
  );
  const repayments = repay(
    grants,
    (accountId, mode) => -heldBy({ accountId, kind: "consumer_receivable", mode }),
  );
  await postTransfers(tx, grants.flatMap(transfersOf), now);
  // A moment later, so that whoever lists them sees that the credit came first.
  await postTransfers(tx, repayments, new Date(now.getTime() + 1));
  return grants.map(({ accountId, mode }, index) => ({
    repaidNanos: repayments[index]?.amountNanos ?? 0n,
    heldNanos: heldAfter({ accountId, mode }),
  }));

  function heldAfter({ accountId, mode }: { accountId: string; mode: Mode }): bigint {
    const isOfPurse = (one: { accountId: string; mode: Mode }) =>
      one.accountId === accountId && one.mode === mode;
    return (
      heldBy({ accountId, kind: "consumer", mode }) +
      heldBy({ accountId, kind: "lease_escrow", mode }) +
      sum(grants.filter(isOfPurse)) -
      sum(repayments.filter(isOfPurse))
    );
  }
}

function transfersOf({ id, accountId, mode, amountNanos, from, sourceType }: Grant) {
  const source = { type: sourceType, id };
  return between(from, { accountId, kind: "consumer" }, { mode, amountNanos, source });
}

/** One repayment for each grant. Those of nothing are not posted. */
function repay(grants: readonly Grant[], owedBy: (accountId: string, mode: Mode) => bigint) {
  const owed = new Map<string, bigint>();
  return grants.map(({ id, accountId, mode, amountNanos }) => {
    const purse = `${accountId} ${mode}`;
    const owedNanos = owed.get(purse) ?? owedBy(accountId, mode);
    const repaid = owedNanos < amountNanos ? owedNanos : amountNanos;
    owed.set(purse, owedNanos - repaid);
    return {
      accountId,
      mode,
      debit: "consumer",
      credit: "consumer_receivable",
      amountNanos: repaid,
      source: { type: "debt_recovery", id },
    } as const;
  });
}

function sum(amounts: readonly { amountNanos: bigint }[]): bigint {
  return amounts.reduce((all, { amountNanos }) => all + amountNanos, 0n);
}
