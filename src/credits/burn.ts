import type { Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import {
  addBurns,
  type Burn,
  changeGrants,
  type GrantChange,
  leftOf,
  lockBurningGrants,
  type Purse,
} from "./grant-store.ts";

/** What the account's credit paid of an event, which burns its grants. */
export interface BurningCharge {
  accountId: string;
  mode: Mode;
  /** When the journal received it. */
  at: Date;
  /** What the account was charged before it, in the mode. */
  fromNanos: bigint;
  nanos: bigint;
}

/** Grants of one account that are looked at together. */
const grantsMax = 100;

/** How often more of them are. What then is not covered burns none. */
const pagesMax = 100;

/**
 * Burn grants by what credit paid, in its order: see burn(). Lock the balances first.
 *
 * Money says what is paid; this says whose it was.
 */
export function burnGrants(tx: Tx, charges: readonly BurningCharge[]): Promise<void> {
  return burnPages(tx, charges, (burns) => addBurns(tx, burns));
}

/** Burn grants by what credit paid, in its order. What burned is handed on, some of it at a time. */
export async function burnPages(
  tx: Tx,
  charges: readonly BurningCharge[],
  onBurned: (burns: readonly Burn[]) => Promise<void>,
): Promise<void> {
  let rest = charges.filter(({ nanos }) => nanos > 0n);
  const seen: string[] = [];
  for (let page = 0; page < pagesMax && rest.length > 0; page++) {
    const rows = await lockBurningGrants(tx, { purses: pursesOf(rest), seen, limit: grantsMax });
    const grants = rows.map((row) => ({
      accountId: row.account_id,
      mode: row.mode,
      id: row.id,
      leftNanos: leftOf(row),
      expireAt: row.expire_at === null ? null : new Date(row.expire_at),
    }));
    const result = burn(grants, rest);
    if (result.burns.length > 0) {
      await changeGrants(tx, { changes: changesOf(result.burns), isOver: false });
      await onBurned(result.burns);
    }
    seen.push(...grants.map(({ id }) => id));
    // Who has fewer has no more.
    const counts = Map.groupBy(grants, purseName);
    rest = result.rest.filter((one) => counts.get(purseName(one))?.length === grantsMax);
  }
}

/** A grant that may burn. */
export interface OpenGrant {
  accountId: string;
  mode: Mode;
  id: string;
  leftNanos: bigint;
  /** Null: never. */
  expireAt: Date | null;
}

/**
 * Tell which grants charges burn, and what of them is not covered. Both in their order, of each account.
 *
 * A charge burns the first grants that have not expired when the journal received it. Parts that go on with the same
 * grant are one: so it does not matter which charges come together.
 */
export function burn(
  grants: readonly OpenGrant[],
  charges: readonly BurningCharge[],
): { burns: Burn[]; rest: BurningCharge[] } {
  const open = Map.groupBy(
    grants.map((one) => ({ ...one })),
    purseName,
  );
  const lastOf = new Map<string, Burn>();
  const burns: Burn[] = [];
  const rest: BurningCharge[] = [];
  for (const charge of charges) {
    const purse = purseName(charge);
    const own = open.get(purse) ?? [];
    let { fromNanos, nanos } = charge;
    for (const grant of own) {
      if (nanos === 0n) {
        break;
      }
      if (grant.leftNanos === 0n || (grant.expireAt !== null && grant.expireAt <= charge.at)) {
        continue;
      }
      const taken = nanos < grant.leftNanos ? nanos : grant.leftNanos;
      const toNanos = fromNanos + taken;
      const last = lastOf.get(purse);
      if (last?.grantId === grant.id && last.toNanos === fromNanos) {
        last.toNanos = toNanos;
      } else {
        const { accountId, mode } = charge;
        const next = { accountId, mode, grantId: grant.id, fromNanos, toNanos };
        lastOf.set(purse, next);
        burns.push(next);
      }
      grant.leftNanos -= taken;
      nanos -= taken;
      fromNanos = toNanos;
    }
    if (own[0]?.leftNanos === 0n) {
      open.set(
        purse,
        own.filter(({ leftNanos }) => leftNanos > 0n),
      );
    }
    if (nanos > 0n) {
      rest.push({ ...charge, fromNanos, nanos });
    }
  }
  return { burns, rest };
}

function purseName({ accountId, mode }: { accountId: string; mode: Mode }): string {
  return `${accountId} ${mode}`;
}

function pursesOf(charges: readonly BurningCharge[]): Purse[] {
  const purses = new Map<string, Purse>();
  for (const charge of charges) {
    const before = purses.get(purseName(charge));
    if (before === undefined || charge.at < before.since) {
      const { accountId, mode, at } = charge;
      purses.set(purseName(charge), { accountId, mode, since: at });
    }
  }
  return [...purses.values()];
}

function changesOf(burns: readonly Burn[]): GrantChange[] {
  const changes = new Map<string, GrantChange>();
  for (const { accountId, grantId: id, fromNanos, toNanos } of burns) {
    const burnedNanos = (changes.get(id)?.burnedNanos ?? 0n) + toNanos - fromNanos;
    changes.set(id, { accountId, id, burnedNanos, returnedNanos: 0n });
  }
  return [...changes.values()];
}
