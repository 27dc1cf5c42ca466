import { type CreditCorrection, correctGrants } from "../credits/correct.ts";
import type { Tx } from "../db/pool.ts";
import { lockBalances, postTransfers } from "../ledger/store.ts";
import { shareFloor } from "../lib/money.ts";
import type { Applied, BatchContext, Corrected, PlacedCorrection } from "./applied-event.ts";
import { attempt } from "./attempt.ts";
import { addCorrectedLines } from "./bill-lines.ts";
import { bookedMonth } from "./booked-month.ts";
import { encodeRow } from "./codec.ts";
import {
  balancesOfCorrection,
  type Delta,
  type Move,
  type Parties,
  transfersOfCorrection,
} from "./correction-money.ts";
import {
  addCorrectedTotal,
  findTarget,
  insertCorrection,
  sumCorrections,
} from "./correction-store.ts";
import { addMeters } from "./meter-rollup.ts";
import type { Quarantined } from "./quarantine.ts";
import { changeRollups } from "./rollup.ts";

/**
 * Apply corrections, in the journal's order. What cannot be applied is told apart, and has no effect.
 *
 * Events stay as they are: a correction is a row that refers to one, and transfers that move money back or forth.
 */
export async function applyCorrections(
  tx: Tx,
  corrections: readonly PlacedCorrection[],
  context: BatchContext,
): Promise<{ done: Corrected[]; failed: Quarantined[] }> {
  const found: { correction: PlacedCorrection; target: Applied | null }[] = [];
  const done: Corrected[] = [];
  const failed: Quarantined[] = [];
  for (const correction of corrections) {
    const tried = await attempt(tx, "target", () => findTarget(tx, correction.entry));
    if ("detail" in tried) {
      failed.push(toQuarantined(context, { correction, target: null, detail: tried.detail }));
    } else {
      found.push({ correction, target: tried.done });
    }
  }
  const keys = found.flatMap(({ target }) =>
    target === null ? [] : balancesOfCorrection(partiesOf(target)),
  );
  if (keys.length > 0) {
    // All at once: in the order of everybody who locks balances.
    await lockBalances(tx, keys);
  }
  for (const { correction, target } of found) {
    const tried = await attempt(tx, "correction", () =>
      applyCorrection(tx, { correction, target }, context),
    );
    const result = "done" in tried ? tried.done : tried;
    if ("detail" in result) {
      failed.push(toQuarantined(context, { correction, target, detail: result.detail }));
    } else {
      done.push(result);
    }
  }
  await addCorrectedLines(tx, done);
  return { done, failed };
}

async function applyCorrection(
  tx: Tx,
  { correction, target }: { correction: PlacedCorrection; target: Applied | null },
  context: BatchContext,
): Promise<Corrected | { detail: string }> {
  if (target === null) {
    return { detail: "there is no such event" };
  }
  const { place, entry } = correction;
  const before = await sumCorrections(tx, { accountId: entry.account, place: target.place });
  if (before.isVoided) {
    return { detail: "the event was taken back before" };
  }
  const isVoid = entry.kind === "void";
  const delta = deltaOf(target, before, isVoid ? 0n : entry.adjustedNanos);
  const corrected: Corrected = {
    place,
    id: entry.correctionId,
    target,
    isVoid,
    ...delta,
    bookedMonth: bookedMonth(target.bookedMonth, place.position, context.closed),
  };
  const parties = partiesOf(target);
  const heldBy = await lockBalances(tx, balancesOfCorrection(parties));
  const source = { type: "correction", id: corrected.id };
  const moves = transfersOfCorrection(parties, delta, heldBy);
  await postTransfers(
    tx,
    moves.map((move) => ({ ...move, source, position: place.position })),
    context.now,
  );
  await correctGrants(tx, creditOf(corrected, moves), context.now);
  const change = { entry: target.entry, bookedMonth: corrected.bookedMonth };
  await changeRollups(tx, [{ ...change, calls: isVoid ? -1n : 0n, nanos: delta.deltaNanos }]);
  await insertCorrection(tx, corrected, { reason: entry.reason, ...context });
  await addCorrectedTotal(tx, corrected);
  if (isVoid) {
    await addMeters(tx, { applied: [], voided: [corrected] });
  }
  return corrected;
}

/** What a correction moves of the consumer's balance. The part of a charge that was owed burned no credit. */
function creditOf({ id, target }: Corrected, moves: readonly Move[]): CreditCorrection {
  const { entry, chargedBefore: fromNanos, owedNanos, place, receivedAt: at } = target;
  const { account: accountId, mode } = entry;
  const nanos = moves.reduce((sum, { credit, debit, amountNanos }) => {
    const sign = credit === "consumer" ? 1n : debit === "consumer" ? -1n : 0n;
    return sum + sign * amountNanos;
  }, 0n);
  const toNanos = fromNanos + entry.chargedNanos - owedNanos;
  return { id, event: { accountId, mode, ...place, fromNanos, toNanos }, at, nanos };
}

/** What a new charge adds to what was charged so far. The platform's share of it is the price's, rounded down. */
function deltaOf({ entry, feeNanos }: Applied, before: Delta, chargedNanos: bigint): Delta {
  const isFirst = chargedNanos === entry.chargedNanos;
  const fee = isFirst ? feeNanos : shareFloor(chargedNanos, entry.price.feeBasisPoints);
  return {
    deltaNanos: chargedNanos - entry.chargedNanos - before.deltaNanos,
    deltaFeeNanos: fee - feeNanos - before.deltaFeeNanos,
  };
}

function partiesOf({ entry: { account, price, mode } }: Applied): Parties {
  return { accountId: account, developerId: price.developerId, mode };
}

function toQuarantined(
  { shard }: BatchContext,
  {
    correction: { place, entry },
    target,
    detail,
  }: { correction: PlacedCorrection; target: Applied | null; detail: string },
): Quarantined {
  return {
    shard,
    place,
    accountId: entry.account,
    mode: target?.entry.mode ?? "live",
    reason: "POISONED",
    detail,
    raw: encodeRow([entry]),
    chargedNanos: 0n,
  };
}
