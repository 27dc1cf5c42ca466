import { expect, test } from "vitest";
import { seeded } from "../../test/support/seeded.ts";
import { type BurningCharge, burn, type OpenGrant } from "./burn.ts";
import type { Burn } from "./grant-store.ts";

const of = { accountId: "acc_a", mode: "live" } as const;
const time = (minute: number) => new Date(Date.UTC(2026, 10, 22, 10, minute));

test("a charge burns the first grant, and goes on in the next", () => {
  const { burns, rest } = burn(
    [grantOf("a", 3n), grantOf("b", 5n)],
    [chargeOf(0n, 2n), chargeOf(2n, 4n)],
  );

  expect(burns).toEqual([burnOf("a", 0n, 3n), burnOf("b", 3n, 6n)]);
  expect(rest).toEqual([]);
});

test("what no grant covers is left over, and a gap parts two burns of one grant", () => {
  const charges = [chargeOf(0n, 2n), chargeOf(7n, 9n)];

  const { burns, rest } = burn([grantOf("a", 5n)], charges);

  expect(burns).toEqual([burnOf("a", 0n, 2n), burnOf("a", 7n, 10n)]);
  expect(rest).toEqual([chargeOf(10n, 6n)]);
});

test("a grant that had ended when the charge was received does not burn", () => {
  const grants = [grantOf("a", 9n, time(10)), grantOf("b", 9n)];
  const charges = [
    chargeOf(0n, 1n, time(9)),
    chargeOf(1n, 1n, time(10)),
    chargeOf(2n, 1n, time(8)),
  ];

  const { burns } = burn(grants, charges);

  expect(burns).toEqual([burnOf("a", 0n, 1n), burnOf("b", 1n, 2n), burnOf("a", 2n, 3n)]);
});

test("accounts and modes burn their own grants", () => {
  const grants = [grantOf("a", 1n), { ...grantOf("b", 1n), mode: "test" as const }];
  const charges = [chargeOf(0n, 3n), { ...chargeOf(0n, 3n), accountId: "acc_b" }];

  const { burns, rest } = burn(grants, charges);

  expect(burns).toEqual([burnOf("a", 0n, 1n)]);
  expect(rest.map(({ accountId, nanos }) => [accountId, nanos])).toEqual([
    ["acc_a", 2n],
    ["acc_b", 3n],
  ]);
});

test("however charges come together, they burn what a nano at a time would", () => {
  const { random, seed } = newRandom();
  for (let round = 0; round < 300; round++) {
    const pick = (count: number) => Math.floor(random() * count);
    const grants = Array.from({ length: pick(6) }, (_, index) =>
      grantOf(`g${index}`, BigInt(1 + pick(8)), pick(2) === 0 ? null : time(pick(20))),
    );
    let from = 0n;
    const charges = Array.from({ length: pick(12) }, () => {
      from += BigInt(pick(2) * pick(4));
      const charge = chargeOf(from, BigInt(1 + pick(6)), time(pick(20)));
      from += charge.nanos;
      return charge;
    });

    const cut = pick(charges.length + 1);
    const parted = inParts(grants, [charges.slice(0, cut), charges.slice(cut)]);

    expect(parted, `seed ${seed}, round ${round}`).toEqual(byNanos(grants, charges));
    expect(inParts(grants, [charges]), `seed ${seed}, round ${round}`).toEqual(parted);
    // Grants that are looked at page by page burn the same.
    const pages = [grants.slice(0, 2), grants.slice(2)];
    expect(inPages(pages, charges), `seed ${seed}, round ${round}`).toEqual(parted);
  }
});

/** Burn list by list, as batches do. */
function inParts(grants: readonly OpenGrant[], lists: readonly BurningCharge[][]): Burn[] {
  const left = grants.map((one) => ({ ...one }));
  const all: Burn[] = [];
  for (const list of lists) {
    const { burns } = burn(left, list);
    for (const { grantId, fromNanos, toNanos } of burns) {
      const grant = left.find(({ id }) => id === grantId);
      if (grant !== undefined) {
        grant.leftNanos -= toNanos - fromNanos;
      }
    }
    all.push(...burns);
  }
  return joined(all);
}

function inPages(pages: readonly OpenGrant[][], charges: readonly BurningCharge[]): Burn[] {
  let rest: readonly BurningCharge[] = charges;
  const all: Burn[] = [];
  for (const page of pages) {
    const result = burn(page, rest);
    all.push(...result.burns);
    rest = result.rest;
  }
  return joined(all);
}

function byNanos(grants: readonly OpenGrant[], charges: readonly BurningCharge[]): Burn[] {
  const left = new Map(grants.map(({ id, leftNanos }) => [id, leftNanos]));
  const burns: Burn[] = [];
  for (const { fromNanos, nanos, at } of charges) {
    for (let nano = fromNanos; nano < fromNanos + nanos; nano++) {
      const grant = grants.find(
        ({ id, expireAt }) => (left.get(id) ?? 0n) > 0n && (expireAt === null || expireAt > at),
      );
      if (grant !== undefined) {
        left.set(grant.id, (left.get(grant.id) ?? 0n) - 1n);
        burns.push(burnOf(grant.id, nano, nano + 1n));
      }
    }
  }
  return joined(burns);
}

/** Burns that go on with the same grant are one. */
function joined(burns: readonly Burn[]): Burn[] {
  const sorted = burns.toSorted((a, b) => Number(a.fromNanos - b.fromNanos));
  const all: Burn[] = [];
  for (const one of sorted) {
    const last = all.at(-1);
    if (last?.grantId === one.grantId && last.toNanos === one.fromNanos) {
      last.toNanos = one.toNanos;
    } else {
      all.push({ ...one });
    }
  }
  return all;
}

function grantOf(id: string, leftNanos: bigint, expireAt: Date | null = null): OpenGrant {
  return { ...of, id, leftNanos, expireAt };
}

function chargeOf(fromNanos: bigint, nanos: bigint, at = time(0)): BurningCharge {
  return { ...of, fromNanos, nanos, at };
}

function burnOf(grantId: string, fromNanos: bigint, toNanos: bigint): Burn {
  return { ...of, grantId, fromNanos, toNanos };
}

function newRandom() {
  const seed = Math.floor(Math.random() * 2 ** 31);
  return { seed, random: seeded(seed) };
}
