import type { Mode } from "../ledger/store.ts";
import { shareFloor } from "../lib/money.ts";

/** What all events of a developer with the same share were charged together. */
export interface ShareKey {
  developerId: string;
  mode: Mode;
  feeBasisPoints: number;
}

/** Running totals, event by event. */
export interface Running {
  /** Add a charge. Returns how much the platform's share of the total grew. */
  addRevenue(key: ShareKey, nanos: bigint): bigint;
  /** Add a charge. Returns what the account was charged before. */
  addCharge(accountId: string, mode: Mode, nanos: bigint): bigint;
}

/** Totals that go on from what is in the tables, so that no share depends on how events were batched. */
export function createRunning(before: {
  grossOf(key: ShareKey): bigint;
  chargedOf(accountId: string, mode: Mode): bigint;
}): Running {
  const gross = new Map<string, bigint>();
  const charged = new Map<string, bigint>();
  return {
    addRevenue(key, nanos) {
      const { developerId, mode, feeBasisPoints } = key;
      const name = `${developerId} ${mode} ${feeBasisPoints}`;
      const old = gross.get(name) ?? before.grossOf(key);
      gross.set(name, old + nanos);
      return shareFloor(old + nanos, feeBasisPoints) - shareFloor(old, feeBasisPoints);
    },
    addCharge(accountId, mode, nanos) {
      const name = `${accountId} ${mode}`;
      const old = charged.get(name) ?? before.chargedOf(accountId, mode);
      charged.set(name, old + nanos);
      return old;
    },
  };
}
