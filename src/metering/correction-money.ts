import {
  type BalanceKey,
  type Kind,
  type Mode,
  platformAccountId,
  type Transfer,
} from "../ledger/store.ts";

/** Whose money a correction moves. */
export interface Parties {
  accountId: string;
  developerId: string;
  mode: Mode;
}

/** What a correction adds to a charge, and to the platform's share of it. Negative when it takes from them. */
export interface Delta {
  deltaNanos: bigint;
  deltaFeeNanos: bigint;
}

/** A transfer whose cause is the correction. */
export type Move = Omit<Transfer, "source">;

/** Every balance that a correction may move. */
export function balancesOfCorrection({ accountId, developerId, mode }: Parties): BalanceKey[] {
  const of = (id: string, ...kinds: Kind[]) => kinds.map((kind) => ({ accountId: id, kind, mode }));
  return [
    ...of(accountId, "clearing", "consumer", "consumer_receivable"),
    ...of(developerId, "clearing", "developer_receivable", "payable"),
    ...of(platformAccountId, "clearing", "platform_fee"),
  ];
}

/**
 * The money of a correction, as transfers: nothing that was moved before is changed.
 *
 * What comes back to a consumer or a developer pays their debts first. What a consumer does not have becomes a debt,
 * and so does what a developer was already paid out.
 */
export function transfersOfCorrection(
  { accountId, developerId, mode }: Parties,
  { deltaNanos, deltaFeeNanos }: Delta,
  heldBy: (key: BalanceKey) => bigint,
): Move[] {
  const shareNanos = deltaNanos - deltaFeeNanos;
  const held = (id: string, kind: Kind) => heldBy({ accountId: id, kind, mode });
  const moves = [
    ...settle(
      { id: accountId, purse: "consumer", debt: "consumer_receivable", mode, held },
      -deltaNanos,
    ),
    ...settle(
      { id: developerId, purse: "payable", debt: "developer_receivable", mode, held },
      shareNanos,
    ),
    ...(deltaFeeNanos < 0n
      ? [take(platformAccountId, mode, "platform_fee", -deltaFeeNanos)]
      : [give(platformAccountId, mode, "platform_fee", deltaFeeNanos)]),
  ];
  return moves.filter(({ amountNanos }) => amountNanos > 0n);
}

interface Side {
  id: string;
  purse: Kind;
  debt: Kind;
  mode: Mode;
  held: (id: string, kind: Kind) => bigint;
}

/** Give somebody money, or (negative) take it. */
function settle({ id, purse, debt, mode, held }: Side, nanos: bigint): Move[] {
  if (nanos >= 0n) {
    const owed = -held(id, debt);
    const repaid = least(nanos, owed);
    return [give(id, mode, debt, repaid), give(id, mode, purse, nanos - repaid)];
  }
  const paid = least(-nanos, held(id, purse));
  return [take(id, mode, purse, paid), take(id, mode, debt, -nanos - paid)];
}

/** The smaller one, and nothing of what is not there. */
function least(wanted: bigint, there: bigint): bigint {
  return there <= 0n ? 0n : wanted < there ? wanted : there;
}

function give(accountId: string, mode: Mode, credit: Kind, amountNanos: bigint): Move {
  return { accountId, mode, debit: "clearing", credit, amountNanos };
}

function take(accountId: string, mode: Mode, debit: Kind, amountNanos: bigint): Move {
  return { accountId, mode, debit, credit: "clearing", amountNanos };
}
