import { Code, ConnectError } from "@connectrpc/connect";
import {
  Asset,
  FeeBumpTransaction,
  Operation,
  Transaction,
  TransactionBuilder,
} from "@stellar/stellar-sdk/base";
import { expect, test as plain } from "vitest";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import {
  PayoutState,
  SettlementService,
  SettlementState,
} from "../gen/callora/settlement/v1/settlement_service_pb.ts";
import { openDatabase } from "../src/server.ts";
import { type SettlementDeps, settleNext } from "../src/settlement/loop.ts";
import { startRun } from "../src/settlement/run.ts";
import type { Horizon } from "../src/stellar/horizon.ts";
import type { NetworkConfig } from "../src/stellar/network.ts";
import { must, until } from "./support/app.ts";
import { newAccountId, openBooksAndNetwork, seeded, usage } from "./support/books.ts";
import { act, newPayee, paidOnChain, settleAll, trust } from "./support/payees.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type Books = Awaited<ReturnType<typeof openBooksAndNetwork>>;
type Fault = NonNullable<Extract<NetworkConfig, { name: "embedded" }>["fault"]>;

const now = () => new Date();

/** A developer who is paid at the address and is owed the amount. */
async function owe(
  books: Books,
  {
    address,
    nanos,
    developer = newAccountId(),
  }: { address: string; nanos: bigint; developer?: string },
): Promise<string> {
  await books.superuser.query(
    "insert into payout_addresses (account_id, address) values ($1, $2) on conflict do nothing",
    [developer, address],
  );
  await books.journal.append([
    usage({ account: newAccountId(), developer, charged: String(nanos), feeBasisPoints: 0 }),
  ]);
  await books.project();
  return developer;
}

/** A ledger waits when its clock, a second for each ledger, runs far ahead of the time: so time runs too. */
function fastClock(): () => Date {
  const begun = Date.now();
  return () => new Date(begun + (Date.now() - begun) * 20);
}

const start = ({ db }: Books) => db.systemTransaction((tx) => startRun(tx, 0n, now()));

async function payouts(books: Books) {
  const { rows } = await books.superuser.query(
    "select account_id, address, state, hold_reason, amount_nanos::int8 as nanos, transaction_hash " +
      "from payouts order by id",
  );
  return rows;
}

async function slots(books: Books): Promise<string[]> {
  const { rows } = await books.superuser.query(
    "select state from settlement_slots order by sequence",
  );
  return rows.map(({ state }) => state);
}

async function expectConserved(books: Books) {
  const { checks } = await books.conservation();
  expect(checks.filter(({ ok }) => !ok)).toEqual([]);
}

test("a developer is paid what the APIs earned, and it is seen everywhere", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const admin = await newPerson(app.db, "super_admin");
  const api = await app.api(developer, { callNanos: 12_345_678_901n });
  const payee = await newPayee(app.network);
  const settlement = app.client(SettlementService, admin.token);
  const earnings = app.client(SettlementService, developer.token);
  await earnings.setPayoutAddress({ address: payee.publicKey() });
  await app.client(MeteringService, admin.token).recordUsage({
    events: [{ source: "t", id: "1", accountId: admin.accountId, apiId: api.id }],
  });
  await until(async () => (await earnings.getEarnings({})).payableNanos > 0n);
  const { payableNanos } = await earnings.getEarnings({});

  const { settlement: started } = await settlement.runSettlement({});

  // Asked of the database: an admin may not ask as often as that.
  await asSuperuser(app, (client) =>
    until(async () => {
      const isDone = "select from settlements where id = $1 and state = 'done'";
      return (await client.query(isDone, [must(started).id])).rowCount === 1;
    }),
  );
  const { settlement: done } = await settlement.getSettlement({ settlementId: must(started).id });
  const wholeStroops = payableNanos - (payableNanos % 100n);
  expect(must(done).state).toBe(SettlementState.DONE);
  expect(must(done).payouts).toMatchObject([
    { address: payee.publicKey(), amountNanos: wholeStroops, state: PayoutState.PAID },
  ]);
  expect(await earnings.getEarnings({})).toMatchObject({
    creditedNanos: payableNanos,
    paidNanos: wholeStroops,
    inFlightNanos: 0n,
    payableNanos: payableNanos % 100n,
  });
  expect((await paidOnChain(app.network)).get(payee.publicKey())).toEqual({
    count: 1,
    stroops: wholeStroops / 100n,
  });
  expect(await settlement.checkConservation({})).toMatchObject({ ok: true });
});

test("payouts go to nobody's mistyped address, and not back to the platform", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const client = app.client(SettlementService, developer.token);
  const { treasury, channel, asset } = app.network;
  const mistyped = treasury.publicKey().replace(/.$/, (last) => (last === "A" ? "B" : "A"));

  for (const address of [mistyped, treasury.publicKey(), channel.publicKey(), asset.issuer]) {
    const error = await client.setPayoutAddress({ address }).catch(ConnectError.from);
    expect(error).toMatchObject({ code: Code.InvalidArgument });
  }
  expect(await client.getEarnings({})).toMatchObject({ address: "" });
});

plain("a run pays to the last stroop, and the rest of it stays payable", async () => {
  await using books = await openBooksAndNetwork();
  const [many, one, none] = [
    await newPayee(books.network),
    await newPayee(books.network),
    await newPayee(books.network),
  ];
  const developers = [
    await owe(books, { address: many.publicKey(), nanos: 123_456_789n }),
    await owe(books, { address: one.publicKey(), nanos: 100n }),
    await owe(books, { address: none.publicKey(), nanos: 99n }),
  ];
  await start(books);

  expect(await settleAll({ ...books, now })).toEqual([]);

  const paid = await paidOnChain(books.network);
  expect(paid.get(many.publicKey())).toEqual({ count: 1, stroops: 1_234_567n });
  expect(paid.get(one.publicKey())).toEqual({ count: 1, stroops: 1n });
  expect(paid.has(none.publicKey())).toBe(false);
  const left = [];
  for (const developer of developers) {
    left.push(await books.held(developer, "payable"));
  }
  expect(left).toEqual([89n, 0n, 99n]);
  await owe(books, { address: none.publicKey(), nanos: 11n, developer: must(developers[0]) });
  await start(books);
  await settleAll({ ...books, now });
  expect((await paidOnChain(books.network)).get(many.publicKey())?.stroops).toBe(1_234_568n);
  await expectConserved(books);
});

plain("a second run is refused while one is running, also when both start at once", async () => {
  await using books = await openBooksAndNetwork();
  const payee = await newPayee(books.network);
  await owe(books, { address: payee.publicKey(), nanos: 1_000n });

  const starts = await Promise.allSettled([start(books), start(books), start(books)]);

  const refused = starts.filter(({ status }) => status === "rejected");
  expect(refused).toHaveLength(2);
  await expect(start(books)).rejects.toMatchObject({
    message: expect.stringContaining("another one is not done"),
  });
  await settleAll({ ...books, now });
  expect(await payouts(books)).toMatchObject([{ state: "paid" }]);
  await start(books);
  expect(await books.sum("select count(*) as sum from settlements where state = 'running'")).toBe(
    0n,
  );
});

plain(
  "who cannot be paid is held with the reason, stays payable, and holds up nobody",
  async () => {
    await using books = await openBooksAndNetwork();
    const missing = await newPayee(books.network, { exists: false });
    const distrustful = await newPayee(books.network, { trusts: false });
    const fine = await newPayee(books.network);
    const invalid = fine.publicKey().replace(/.$/, (last) => (last === "A" ? "B" : "A"));
    for (const address of [
      missing.publicKey(),
      invalid,
      distrustful.publicKey(),
      fine.publicKey(),
    ]) {
      await owe(books, { address, nanos: 5_000n });
    }
    await start(books);

    expect(await settleAll({ ...books, now })).toEqual([]);

    const byAddress = new Map((await payouts(books)).map((row) => [row.address, row]));
    expect(byAddress.get(missing.publicKey())).toMatchObject({
      state: "held",
      hold_reason: "DESTINATION_MISSING",
    });
    expect(byAddress.get(invalid)).toMatchObject({ state: "held", hold_reason: "ADDRESS_INVALID" });
    expect(byAddress.get(distrustful.publicKey())).toMatchObject({
      state: "held",
      hold_reason: "TRUSTLINE_MISSING",
    });
    expect(byAddress.get(fine.publicKey())).toMatchObject({ state: "paid" });
    await expectConserved(books);
    await trust(books.network, distrustful);
    await start(books);
    await settleAll({ ...books, now });
    expect((await paidOnChain(books.network)).get(distrustful.publicKey())).toEqual({
      count: 1,
      stroops: 50n,
    });
    await expectConserved(books);
  },
);

plain.for<[string, Fault]>([
  ["the connection breaks after delivery", ({ nth }) => (nth <= 2 ? "drop-after" : undefined)],
  [
    "the answer times out though it was applied",
    ({ nth }) => (nth === 1 ? "timeout-after" : undefined),
  ],
  ["the connection breaks before delivery", ({ nth }) => (nth <= 3 ? "drop-before" : undefined)],
  ["delivery is late", ({ nth }) => (nth === 1 ? { delayMs: 60 } : undefined)],
  ["every answer is lost", () => "drop-after"],
])("each payout is paid once when %s", async ([, plan]) => {
  let first = Number.POSITIVE_INFINITY;
  const fault: Fault = (submission) =>
    submission.nth < first ? undefined : plan({ ...submission, nth: submission.nth - first + 1 });
  let submissions = 0;
  await using books = await openBooksAndNetwork({
    fault: (submission) => {
      submissions = submission.nth;
      return fault(submission);
    },
  });
  const payees = [await newPayee(books.network), await newPayee(books.network)];
  for (const payee of payees) {
    await owe(books, { address: payee.publicKey(), nanos: 7_000n });
  }
  first = submissions + 1;
  await start(books);

  await settleAll({ ...books, now });

  const paid = await paidOnChain(books.network);
  for (const payee of payees) {
    expect(paid.get(payee.publicKey())).toEqual({ count: 1, stroops: 70n });
  }
  expect(await slots(books)).toEqual(["closed_paid"]);
  await expectConserved(books);
});

plain(
  "each payout is paid once when the process dies between any two steps",
  async () => {
    await using books = await openBooksAndNetwork({ now: fastClock() });
    const payees = [await newPayee(books.network), await newPayee(books.network)];
    const doomed = await newPayee(books.network, { trusts: false });
    const developers = [newAccountId(), newAccountId(), newAccountId()];
    let runs = 0;

    for (const when of ["before", "after"] as const) {
      for (let step = 1; ; step++) {
        for (const [index, payee] of [...payees, doomed].entries()) {
          const developer = must(developers[index]);
          await owe(books, { address: payee.publicKey(), nanos: 100n, developer });
        }
        await start(books);
        runs += 1;
        const isDead = await diesIn(books, step, when);

        // Another process, which knows nothing but what is stored.
        await settleAll({ db: books.db, network: books.network, now });

        const paid = await paidOnChain(books.network);
        for (const payee of payees) {
          expect(paid.get(payee.publicKey()), `${when} step ${step}`).toEqual({
            count: runs,
            stroops: BigInt(runs),
          });
        }
        expect(await books.held(must(developers[2]), "payable")).toBe(BigInt(runs) * 100n);
        if (!isDead) {
          expect(step).toBeGreaterThan(12);
          break;
        }
      }
    }
    expect(await slots(books)).toEqual(Array(runs).fill("closed_paid"));
    await expectConserved(books);
  },
  120_000,
);

plain("an envelope that expires is replaced in the same slot", async () => {
  let isDown = false;
  let ahead = 0;
  const clock = () => new Date(Date.now() + ahead);
  await using books = await openBooksAndNetwork({
    now: clock,
    fault: () => (isDown ? "drop-before" : undefined),
  });
  const payee = await newPayee(books.network);
  await owe(books, { address: payee.publicKey(), nanos: 500n });
  await start(books);
  isDown = true;
  const deps = { ...books, now: clock };
  for (let round = 0; round < 5; round++) {
    await settleNext(deps);
  }

  // The ledger's clock runs ahead of ours by a second for each ledger.
  ahead = 1_000_000;
  for (let round = 0; round < 3; round++) {
    await settleNext(deps);
  }
  isDown = false;
  await settleAll(deps);

  expect(await slots(books)).toEqual(["closed_paid"]);
  expect(await books.sum("select count(*) as sum from settlement_attempts")).toBe(2n);
  expect((await paidOnChain(books.network)).get(payee.publicKey())?.count).toBe(1);
  await expectConserved(books);
});

plain(
  "a slot whose number somebody else used is closed, and its payouts paid in a new one",
  async () => {
    let isDown = false;
    let ahead = 0;
    const clock = () => new Date(Date.now() + ahead);
    await using books = await openBooksAndNetwork({
      now: clock,
      fault: () => (isDown ? "drop-before" : undefined),
    });
    const payee = await newPayee(books.network);
    await owe(books, { address: payee.publicKey(), nanos: 500n });
    await start(books);
    const deps = { ...books, now: clock };
    isDown = true;
    for (let round = 0; round < 4; round++) {
      await settleNext(deps);
    }
    isDown = false;
    await act(books.network, books.network.channel, [Operation.bumpSequence({ bumpTo: "0" })]);
    ahead = 1_000_000;

    await settleAll(deps);

    expect(await slots(books)).toEqual(["closed_foreign", "closed_paid"]);
    expect((await paidOnChain(books.network)).get(payee.publicKey())?.count).toBe(1);
    await expectConserved(books);
  },
);

plain("a stranger's transaction with the slot's number closes nothing", async () => {
  let ahead = 0;
  const clock = () => new Date(Date.now() + ahead);
  let isDown = false;
  await using books = await openBooksAndNetwork({
    now: clock,
    fault: () => (isDown ? "drop-after" : undefined),
  });
  const { network } = books;
  const payee = await newPayee(network);
  await owe(books, { address: payee.publicKey(), nanos: 500n });
  // Accounts that are made later have higher numbers, and a number can only be raised.
  const raised = (2n ** 50n).toString();
  await act(network, network.channel, [Operation.bumpSequence({ bumpTo: raised })]);
  await start(books);
  const deps = { ...books, now: clock };
  await settleNext(deps);
  await settleNext(deps);
  isDown = true;
  await settleNext(deps);
  isDown = false;
  const sequence = await books.sum("select sequence as sum from settlement_slots");
  const stranger = await newPayee(network, { trusts: false });
  await act(network, stranger, [Operation.bumpSequence({ bumpTo: (sequence - 1n).toString() })]);
  const pennies = Operation.payment({
    destination: network.channel.publicKey(),
    asset: Asset.native(),
    amount: "0.0000001",
  });
  await act(network, stranger, [pennies], sequence);
  ahead = 1_000_000;
  // A network that has our transaction in its accounts, but not yet in its history.
  const isOurs = ({ source }: { source: string }) => source === network.channel.publicKey();
  const lagging: Horizon = {
    ...network.horizon,
    findTransaction: async () => null,
    listTransactions: async (address, limit) =>
      (await network.horizon.listTransactions(address, limit)).filter((one) => !isOurs(one)),
  };

  await expect(settleNext({ ...deps, network: { ...network, horizon: lagging } })).rejects.toThrow(
    "what used its number is not found",
  );

  expect(await slots(books)).toEqual(["open"]);
  await settleAll(deps);
  expect(await slots(books)).toEqual(["closed_paid"]);
  expect((await paidOnChain(network)).get(payee.publicKey())?.count).toBe(1);
  await expectConserved(books);
});

plain("an envelope that somebody wraps in a fee bump has paid all the same", async () => {
  let isDown = false;
  await using books = await openBooksAndNetwork({
    fault: ({ nth }) => (isDown && nth > 0 ? "drop-before" : undefined),
  });
  const { network } = books;
  const payee = await newPayee(network);
  await owe(books, { address: payee.publicKey(), nanos: 500n });
  await start(books);
  const deps = { ...books, now };
  await settleNext(deps);
  isDown = true;
  await settleNext(deps);
  await settleNext(deps);
  isDown = false;
  const { rows } = await books.superuser.query("select envelope from settlement_attempts");
  const inner = TransactionBuilder.fromXdr(rows[0].envelope, network.passphrase);
  if (inner instanceof FeeBumpTransaction || !(inner instanceof Transaction)) {
    throw new Error("not a transaction");
  }
  const wrapper = await newPayee(network, { trusts: false });
  const bump = TransactionBuilder.buildFeeBumpTransaction(
    wrapper,
    "20000",
    inner,
    network.passphrase,
  );
  bump.sign(wrapper);
  expect(await network.horizon.submit(bump.toXdr())).toMatchObject({ kind: "applied" });

  await settleAll(deps);

  expect(await payouts(books)).toMatchObject([{ state: "paid" }]);
  expect((await paidOnChain(network)).get(payee.publicKey())?.count).toBe(1);
});

plain("who makes a transaction fail is held, and the others are paid by another one", async () => {
  await using books = await openBooksAndNetwork();
  const payees = [
    await newPayee(books.network),
    await newPayee(books.network),
    await newPayee(books.network),
  ];
  const [, offender] = payees;
  for (const payee of payees) {
    await owe(books, { address: payee.publicKey(), nanos: 500n });
  }
  await start(books);
  const deps = { ...books, now };
  await settleNext(deps);
  await trust(books.network, must(offender), "0");

  await settleAll(deps);

  expect(await slots(books)).toEqual(["closed_failed", "closed_paid"]);
  for (const row of await payouts(books)) {
    expect(row).toMatchObject(
      row.address === must(offender).publicKey()
        ? { state: "held", hold_reason: "TRUSTLINE_MISSING" }
        : { state: "paid" },
    );
  }
  const paid = await paidOnChain(books.network);
  expect(payees.map((payee) => paid.get(payee.publicKey())?.count ?? 0)).toEqual([1, 0, 1]);
  await expectConserved(books);
});

plain(
  "a transaction that fails for a reason of ours blames nobody, and is not tried at once again",
  async () => {
    await using books = await openBooksAndNetwork();
    const { network } = books;
    const payee = await newPayee(network);
    await owe(books, { address: payee.publicKey(), nanos: 500n });
    await start(books);
    const deps = { ...books, now };
    await settleNext(deps);
    const asset = new Asset(network.asset.code, network.asset.issuer);
    const all = Operation.payment({
      destination: asset.getIssuer() ?? "",
      asset,
      amount: "10000000",
    });
    await act(network, network.treasury, [all]);

    const failures: string[] = [];
    for (let round = 0; round < 12; round++) {
      await settleNext(deps).catch((error: Error) => failures.push(error.message));
    }

    expect(await slots(books)).toEqual(["closed_failed"]);
    expect(await payouts(books)).toMatchObject([{ state: "in_flight" }]);
    expect(failures.at(-1)).toContain("no payee is to blame");
    const later = () => new Date(Date.now() + 120_000);
    await expect(settleNext({ ...deps, now: later })).rejects.toThrow("the treasury holds 0");
  },
);

plain(
  "a process that comes late to open a slot pays nobody again, and holds nobody who is paid",
  async () => {
    await using books = await openBooksAndNetwork();
    const { network } = books;
    const payee = await newPayee(network);
    await owe(books, { address: payee.publicKey(), nanos: 500n });
    const deps = { ...books, now };
    const other = await newPayee(network);
    const lateFor = async (answer: (address: string) => Promise<"as is" | null>) => {
      await start(books);
      const horizon: Horizon = {
        ...network.horizon,
        async findAccount(address) {
          return (await answer(address)) === null ? null : network.horizon.findAccount(address);
        },
      };
      await settleNext({ ...deps, network: { ...network, horizon } });
      await settleAll(deps);
    };

    // It has read whom to pay; then another process pays them; then it asks for the channel.
    await lateFor(async (address) => {
      if (address === network.channel.publicKey()) {
        for (let step = 0; step < 4; step++) {
          await settleNext(deps);
        }
        // The run is kept open by somebody else who is to be paid.
        expect((await payouts(books))[0]).toMatchObject({ state: "paid" });
      }
      return "as is";
    });
    await owe(books, { address: other.publicKey(), nanos: 500n });
    // It finds that an account is not there, while another process is paying it.
    await lateFor(async (address) => {
      if (address === other.publicKey()) {
        await settleNext(deps);
        await settleNext(deps);
        return null;
      }
      return "as is";
    });

    const paid = await paidOnChain(network);
    expect(paid.get(payee.publicKey())).toEqual({ count: 1, stroops: 5n });
    expect(paid.get(other.publicKey())).toEqual({ count: 1, stroops: 5n });
    expect((await payouts(books)).map(({ state }) => state)).toEqual(["paid", "paid"]);
    await expectConserved(books);
  },
);

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

plain(
  `two processes never pay twice, whatever is lost (seed ${seed})`,
  async () => {
    const random = seeded(seed);
    let isRough = false;
    await using books = await openBooksAndNetwork({
      now: fastClock(),
      fault: () => {
        const luck = isRough ? random() : 1;
        if (luck < 0.6) {
          return luck < 0.25 ? "drop-after" : luck < 0.4 ? "drop-before" : "timeout-after";
        }
        return luck < 0.7 ? { delayMs: 10 } : undefined;
      },
    });
    const second = await openDatabase(books.urls);
    const payees = await Promise.all(Array.from({ length: 15 }, () => newPayee(books.network)));
    const developers = payees.map(() => newAccountId());
    const runs = 14;
    isRough = true;

    for (let run = 0; run < runs; run++) {
      for (const [index, payee] of payees.entries()) {
        const developer = must(developers[index]);
        await owe(books, { address: payee.publicKey(), nanos: 100n, developer });
      }
      await start(books);
      await Promise.all([settleAll({ ...books, now }), settleAll({ ...books, db: second, now })]);
    }
    await second.close();

    const paid = await paidOnChain(books.network);
    for (const payee of payees) {
      expect(paid.get(payee.publicKey()), `seed ${seed}`).toEqual({
        count: runs,
        stroops: BigInt(runs),
      });
    }
    expect(await books.sum("select count(*) as sum from payouts where state = 'paid'")).toBe(
      BigInt(runs * payees.length),
    );
    await expectConserved(books);
  },
  120_000,
);

class Death extends Error {}

/** Settle in a process that dies at the step. False when it was done before. */
async function diesIn(books: Books, step: number, when: "before" | "after"): Promise<boolean> {
  let steps = 0;
  async function mortal<T>(work: () => Promise<T>): Promise<T> {
    steps += 1;
    if (steps > step || (steps === step && when === "before")) {
      throw new Death();
    }
    const result = await work();
    if (steps === step) {
      throw new Death();
    }
    return result;
  }
  const { db, network } = books;
  const { horizon } = network;
  const deps: SettlementDeps = {
    db: { ...db, systemTransaction: (work) => mortal(() => db.systemTransaction(work)) },
    network: {
      ...network,
      horizon: {
        ...horizon,
        latestLedger: () => mortal(() => horizon.latestLedger()),
        findAccount: (address) => mortal(() => horizon.findAccount(address)),
        findTransaction: (hash) => mortal(() => horizon.findTransaction(hash)),
        submit: (envelope) => mortal(() => horizon.submit(envelope)),
      },
    },
    now,
  };
  for (let round = 0; round < 50; round++) {
    try {
      if (!(await settleNext(deps))) {
        return false;
      }
    } catch (error) {
      expect(error).toBeInstanceOf(Death);
      return true;
    }
  }
  throw new Error("neither done nor dead");
}
