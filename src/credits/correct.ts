import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { burnPages } from "./burn.ts";
import { insertGrantCorrections, lockBurnedGrants, type PaidEvent } from "./correction-store.ts";
import { priorityDefault, promotionMoney } from "./credit.ts";
import { changeGrants, insertGrants } from "./grant-store.ts";

/** What a correction of an event moved of its account's credit. */
export interface CreditCorrection {
  /** Of the correction. */
  id: string;
  event: PaidEvent;
  /** When the journal received the event: what burns are the grants of that time. */
  at: Date;
  /** What came back to the balance. Negative: what was taken from it. */
  nanos: bigint;
}

/**
 * Let grants follow a correction that moved the balance, as if the event had cost that from the beginning. Lock the
 * balance first.
 *
 * What comes back goes to the grants that the event burned, the last first: bought credit can be paid back again, and
 * what a grant gave that is over ends with it. What burned none of them, since it was owed at first, is a new grant.
 */
export async function correctGrants(
  tx: Tx,
  correction: CreditCorrection,
  now: Date,
): Promise<void> {
  if (correction.nanos > 0n) {
    await giveBack(tx, correction, now);
  } else if (correction.nanos < 0n) {
    await burnMore(tx, correction);
  }
}

async function giveBack(tx: Tx, { id, event, nanos }: CreditCorrection, now: Date): Promise<void> {
  const { accountId, mode } = event;
  let rest = nanos;
  const burns = (await lockBurnedGrants(tx, event)).flatMap(({ id: grantId, event_nanos }) => {
    const given = event_nanos < rest ? event_nanos : rest;
    rest -= given;
    return given === 0n ? [] : [{ grantId, nanos: -given }];
  });
  const changes = burns.map(({ grantId, nanos: burnedNanos }) => ({
    accountId,
    id: grantId,
    burnedNanos,
    returnedNanos: 0n,
  }));
  await changeGrants(tx, { changes, isOver: false });
  await insertGrantCorrections(tx, event, { id, burns });
  if (rest > 0n) {
    const credit = {
      accountId,
      mode,
      grantId: newId("grt", now),
      kind: "adjustment",
      amountNanos: rest,
      from: promotionMoney,
      priority: priorityDefault,
      expireAt: null,
      purchaseId: "",
      note: "Given back by a correction",
    } as const;
    await insertGrants(tx, { credits: [credit], repaid: [0n], now });
  }
}

async function burnMore(tx: Tx, { id, event, at, nanos }: CreditCorrection): Promise<void> {
  const { accountId, mode } = event;
  const charge = { accountId, mode, at, fromNanos: 0n, nanos: -nanos };
  await burnPages(tx, [charge], (burned) => {
    const burns = burned.map(({ grantId, fromNanos, toNanos }) => ({
      grantId,
      nanos: toNanos - fromNanos,
    }));
    return insertGrantCorrections(tx, event, { id, burns });
  });
}
