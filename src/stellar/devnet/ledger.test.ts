import { type Asset, Keypair, Operation, TransactionBuilder, type xdr } from "@stellar/stellar-sdk";
import { expect } from "vitest";
import { issuer, type Net, passphrase, pay, root, test, trust, usdc } from "./test-support.ts";

const totalStroops = 10n ** 18n;

/** Numbers from 0 to 1 that are the same on each run. */
function seededRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function totals(net: Net) {
  let xlm = net.chain.feePool();
  let usdcHeld = 0n;
  for (const account of net.chain.accounts()) {
    xlm += account.balance;
    for (const line of account.trustLines.values()) usdcHeld += line.balance;
    expect(account.balance >= 0n).toBe(true);
  }
  return { xlm, usdcHeld };
}

test.for([1, 2, 3])("no XLM is made or lost in random runs (seed %i)", async (seed, { start }) => {
  const random = seededRandom(seed);
  const net = await start({ closeDelayMs: null });
  const others = Array.from({ length: 6 }, (_, index) => keypairOf(100 + index));
  const keys = [root, issuer, ...others];
  const funded = Promise.all(keys.slice(1).map((keypair) => net.chain.fund(keypair.publicKey())));
  await net.closeLedger();
  await funded;
  const pick = () => keys[Math.floor(random() * keys.length)] ?? root;
  const amount = () => (random() * (random() < 0.2 ? 1e6 : 50) + 0.0000001).toFixed(7);
  const operationKinds: (() => xdr.Operation)[] = [
    () => pay(pick(), amount()),
    () => pay(pick(), amount(), usdc),
    () => trust(random() < 0.2 ? "0" : amount()),
    () => Operation.createAccount({ destination: pick().publicKey(), startingBalance: amount() }),
    () => Operation.manageData({ name: `n${Math.floor(random() * 3)}`, value: "v" }),
    () =>
      random() < 0.2
        ? Operation.accountMerge({ destination: pick().publicKey() })
        : pay(issuer, amount()),
  ];

  for (let round = 0; round < 40; round++) {
    for (let each = 0; each < 4; each++) {
      const source = pick();
      const account = net.chain.account(source.publicKey());
      if (!account) continue;
      const count = 1 + Math.floor(random() * 4);
      const operations = Array.from({ length: count }, () => {
        const kind = operationKinds[Math.floor(random() * operationKinds.length)];
        return kind?.() ?? trust();
      });
      const isRootMerge = source === root && operations.some(isMerge);
      if (isRootMerge) continue;
      const inner = await net.build([source], operations);
      const payer = pick();
      const bump = TransactionBuilder.buildFeeBumpTransaction(payer, "150", inner, passphrase);
      bump.sign(payer);
      const sent = random() < 0.3 ? bump : inner;
      net.chain.submit(net.chain.parse(sent.toEnvelope().toXdr("base64")));
    }
    await net.closeLedger();
    expect(totals(net).xlm).toBe(totalStroops);
  }

  const ends = net.chain.history.transactions.map(({ isSuccessful }) => isSuccessful);
  expect(ends.filter((isSuccessful) => isSuccessful).length).toBeGreaterThan(10);
  expect(ends.filter((isSuccessful) => !isSuccessful).length).toBeGreaterThan(10);
});

test("USDC on trust lines is what the issuer sent less what came back", async ({ start }) => {
  const net = await start();
  const holders = await Promise.all([net.fund(), net.fund()]);
  await net.server.friendbot(issuer.publicKey()).call();
  for (const holder of holders) await net.send([holder], [trust()]);
  const [first, second] = holders as [Keypair, Keypair];

  await net.send([issuer], [pay(first, "100", usdc)]);
  await net.send([first], [pay(second, "40", usdc), pay(issuer, "10", usdc)]);

  expect(totals(net)).toEqual({ xlm: totalStroops, usdcHeld: 900_000_000n });
});

test("a hundred payments fit one transaction", async ({ start }) => {
  const net = await start();
  const payee = await net.fund();
  const operations = Array.from({ length: 100 }, () => pay(payee, "1"));

  const sent = await net.send([root], operations);

  expect(sent).toMatchObject({ operation_count: 100, fee_charged: "10000" });
  expect(net.chain.account(payee.publicKey())?.balance).toBe(101_000_000_000n);
});

test("a merged account is gone, and its balance with it", async ({ start }) => {
  const net = await start();
  const [leaving, staying] = [await net.fund(), await net.fund()];
  await net.closeLedger();

  await net.send([leaving], [Operation.accountMerge({ destination: staying.publicKey() })]);

  expect(net.chain.account(leaving.publicKey())).toBeUndefined();
  expect(net.chain.account(staying.publicKey())?.balance).toBe(199_999_999_900n);
});

test("a trust line of an issuer that asks for approval waits for it", async ({ start }) => {
  const net = await start();
  const holder = await net.fund();
  await net.server.friendbot(issuer.publicKey()).call();
  await net.send([issuer], [Operation.setOptions({ setFlags: 1 })]);
  await net.send([holder], [trust()]);
  const flags = { authorized: true };
  const approve = Operation.setTrustLineFlags({ trustor: holder.publicKey(), asset: usdc, flags });

  await expect(net.send([issuer], [pay(holder, "1", usdc)])).rejects.toThrow();
  await net.send([issuer], [approve]);
  await net.send([issuer], [pay(holder, "1", usdc)]);

  const line = net.chain.account(holder.publicKey())?.trustLines.get(assetName(usdc));
  expect(line).toMatchObject({ authorized: true, balance: 10_000_000n });
});

function keypairOf(seed: number): Keypair {
  return Keypair.fromRawEd25519Seed(new Uint8Array(32).fill(seed));
}

function isMerge(operation: xdr.Operation): boolean {
  return operation.body.type === "accountMerge";
}

function assetName(asset: Asset): string {
  return `${asset.getCode()}:${asset.getIssuer()}`;
}
