import { expect, test } from "vitest";
import { seeded } from "../../test/support/seeded.ts";
import { usableMs } from "./held-lease.ts";
import { LeasedPurse, type Lender } from "./leased-purse.ts";
import { leaseMs } from "./leases.ts";
import type { Lease, Shortage } from "./purse.ts";

/** A ledger of one account, as the database would keep it: what is leased, until when, and what was spent. */
function openLedger(balanceNanos: bigint, now: { ms: number }) {
  const leases = new Map<string, { leftNanos: bigint; endMs: number }>();
  const ledger = {
    balanceNanos,
    spentNanos: 0n,
    /** A lease that is over goes back whole: what it paid was taken from it before. */
    drain() {
      for (const [id, { leftNanos, endMs }] of leases) {
        if (endMs <= now.ms) {
          ledger.balanceNanos += leftNanos;
          leases.delete(id);
        }
      }
    },
    /** A strict append: false when the lease is over. */
    append(id: string, nanos: bigint): boolean {
      ledger.drain();
      const lease = leases.get(id);
      if (lease === undefined) {
        return false;
      }
      expect(lease.leftNanos).toBeGreaterThanOrEqual(nanos);
      lease.leftNanos -= nanos;
      ledger.spentNanos += nanos;
      return true;
    },
    renew(id: string): boolean {
      ledger.drain();
      const lease = leases.get(id);
      if (lease !== undefined) {
        lease.endMs = now.ms + leaseMs;
      }
      return lease !== undefined;
    },
    lender(holder: string): Lender {
      let opened = 0;
      const got = (id: string, amountNanos: bigint) => {
        const availableNanos = ledger.balanceNanos;
        return { lease: { id, amountNanos, availableNanos, endsInMs: null } };
      };
      const short = (): Shortage => {
        const availableNanos = ledger.balanceNanos;
        const none = { reservedNanos: 0n, owedNanos: 0n, budgetId: "" };
        return { availableNanos, ...none, limitedBy: "balance" };
      };
      function amountOf({ leastNanos, wantNanos }: { leastNanos: bigint; wantNanos: bigint }) {
        ledger.drain();
        const fair = ledger.balanceNanos / 4n < wantNanos ? ledger.balanceNanos / 4n : wantNanos;
        const amountNanos = fair > leastNanos ? fair : leastNanos;
        if (amountNanos > ledger.balanceNanos) {
          return null;
        }
        ledger.balanceNanos -= amountNanos;
        return amountNanos;
      }
      return {
        async open(wanted) {
          const amountNanos = amountOf(wanted);
          await turn();
          if (amountNanos === null) {
            return short();
          }
          opened += 1;
          const id = `${holder} ${opened}`;
          leases.set(id, { leftNanos: amountNanos, endMs: now.ms + leaseMs });
          return got(id, amountNanos);
        },
        async topUp({ leaseId, ...wanted }) {
          ledger.drain();
          const lease = leases.get(leaseId);
          const amountNanos = lease === undefined ? null : amountOf(wanted);
          if (lease === undefined) {
            await turn();
            return null;
          }
          if (amountNanos === null) {
            await turn();
            return short();
          }
          lease.leftNanos += amountNanos;
          lease.endMs = now.ms + leaseMs;
          await turn();
          return got(leaseId, amountNanos);
        },
      };
    },
  };
  return ledger;
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

function openPurse(lender: Lender, nowMs: () => number) {
  const errors: unknown[] = [];
  const events = {
    opened: () => {},
    toppedUp: () => {},
    waited: () => {},
    onError: (error: unknown) => void errors.push(error),
  };
  return { purse: new LeasedPurse(lender, events, nowMs), errors };
}

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

test(`three processes never spend more than there is, whatever stands still (seed ${seed})`, async () => {
  const random = seeded(seed);
  const below = (end: number) => Math.floor(random() * end);
  let lost = 0;
  let served = 0;
  for (let round = 0; round < 20; round++) {
    const now = { ms: 0 };
    const balanceNanos = BigInt(500 + below(3_000));
    const ledger = openLedger(balanceNanos, now);
    // Each process has its own clock, which stands still for a while without its knowing.
    const purses = [0, 1, 2].map((index) => openPurse(ledger.lender(`${index}`), () => now.ms));
    const call = async (index: number) => {
      const { purse } = purses[index % 3] as (typeof purses)[0];
      const nanos = BigInt(1 + below(30));
      // Who stood still for too long while it asked is told that nobody knows.
      const lease = purse.take(nanos) ?? (await purse.ask(nanos).catch(() => null));
      if (lease === null || "availableNanos" in lease) {
        return;
      }
      for (let turns = below(20); turns > 0; turns--) {
        await turn();
      }
      const charge = BigInt(below(Number(nanos) + 1));
      if (ledger.append(lease.id, charge)) {
        served += 1;
      } else {
        lost += 1;
      }
      lease.release(nanos - charge);
    };
    const calls = Array.from({ length: 150 }, async (_, index) => {
      for (let turns = below(60); turns > 0; turns--) {
        await turn();
      }
      await call(index);
    });
    const clock = (async () => {
      for (let step = 0; step < 60; step++) {
        now.ms += random() < 0.05 ? leaseMs + below(5_000) : below(1_500);
        for (const { purse } of purses) {
          const { lease } = purse;
          const isRenewed = lease !== null && random() < 0.3 && !lease.isLost;
          if (isRenewed && ledger.renew(lease.id)) {
            lease.renewed(now.ms);
          }
        }
        await turn();
      }
    })();
    await Promise.all([...calls, clock]);

    now.ms += leaseMs;
    ledger.drain();
    expect(ledger.spentNanos + ledger.balanceNanos, `round ${round}`).toBe(balanceNanos);
    expect(purses.flatMap(({ errors }) => errors)).toEqual([]);
  }
  expect(served).toBeGreaterThan(500);
  expect(lost).toBeGreaterThan(0);
});

async function takeOf(purse: LeasedPurse, nanos: bigint): Promise<Lease> {
  const lease = purse.take(nanos) ?? (await purse.ask(nanos));
  if ("availableNanos" in lease) {
    throw new Error(`not enough: ${lease.availableNanos}`);
  }
  return lease;
}

test("a lease is used for less than it lasts, and is lost to those who use it longer", async () => {
  const now = { ms: 0 };
  const ledger = openLedger(1_000_000n, now);
  const { purse } = openPurse(ledger.lender("a"), () => now.ms);

  const lease = await takeOf(purse, 10n);
  now.ms = usableMs - 1;
  expect([lease.isLost, (await takeOf(purse, 10n)).id]).toEqual([false, lease.id]);
  now.ms = usableMs;
  expect([lease.isLost, purse.take(10n)]).toEqual([true, null]);

  expect((await takeOf(purse, 10n)).id).not.toBe(lease.id);
});

test("it is topped up before it is empty, and no call waits", async () => {
  const now = { ms: 0 };
  const ledger = openLedger(1_000_000n, now);
  const { purse } = openPurse(ledger.lender("a"), () => now.ms);
  const { id } = await takeOf(purse, 10n);

  for (let call = 0; call < 1_000; call++) {
    now.ms += 1;
    expect(purse.take(10n)?.id).toBe(id);
    await turn();
    await turn();
  }
});

test("when the database does not answer a call is told so, and others are served from the lease", async () => {
  const now = { ms: 0 };
  const ledger = openLedger(1_000_000n, now);
  const lender = ledger.lender("a");
  let isAway = false;
  const failing: Lender = {
    open: (wanted) => (isAway ? Promise.reject(new Error("away")) : lender.open(wanted)),
    topUp: (wanted) => (isAway ? Promise.reject(new Error("away")) : lender.topUp(wanted)),
  };
  const { purse, errors } = openPurse(failing, () => now.ms);
  const { id } = await takeOf(purse, 10n);
  isAway = true;

  let served = 0;
  while (purse.take(10n) !== null) {
    served += 1;
    await turn();
  }
  expect(served).toBeGreaterThanOrEqual(19);
  await expect(purse.ask(10n)).rejects.toMatchObject({ rawMessage: /does not answer/ });
  expect(errors).toHaveLength(1);
  isAway = false;
  now.ms += 1_000;

  expect((await takeOf(purse, 10n)).id).toBe(id);
});

test("what calls gave back and what is in the balance pay together for the last call", async () => {
  const now = { ms: 0 };
  const ledger = openLedger(25n, now);
  const { purse } = openPurse(ledger.lender("a"), () => now.ms);
  const lease = await takeOf(purse, 10n);
  while (purse.isFilling) {
    await turn();
  }
  const leftNanos = purse.lease?.leftNanos ?? 0n;
  lease.release(3n);

  const last = await takeOf(purse, ledger.balanceNanos + leftNanos + 3n);

  expect([last.id, ledger.balanceNanos, purse.lease?.leftNanos]).toEqual([lease.id, 0n, 0n]);
});
