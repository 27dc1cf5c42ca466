import { Asset, Keypair, Operation } from "@stellar/stellar-sdk";
import { expect } from "vitest";
import { issuer, type Net, pay, root, test, trust, usdc } from "./test-support.ts";

test("an XLM payment moves the amount and charges the payer the fee", async ({ start }) => {
  const net = await start();
  const [payer, payee] = [await net.fund(), await net.fund()];

  const result = await net.send([payer], [pay(payee, "12.5")]);

  expect(result.successful).toBe(true);
  const loaded = await net.server.loadAccount(payee.publicKey());
  expect(loaded.balances[0]).toMatchObject({ asset_type: "native", balance: "10012.5000000" });
  const after = await net.server.loadAccount(payer.publicKey());
  expect(after.balances[0]?.balance).toBe("9987.4999900");
  expect(result).toMatchObject({ source_account_sequence: after.sequence, fee_charged: "100" });
});

test("USDC is made by its issuer, moves over trust lines and ends at its issuer", async ({
  start,
}) => {
  const net = await start();
  const [payer, payee] = [await net.fund(), await net.fund()];
  await net.server.friendbot(issuer.publicKey()).call();
  await net.send([payer], [trust()]);
  await net.send([payee], [trust("50")]);

  await net.send([issuer], [pay(payer, "100", usdc)]);
  await net.send([payer], [pay(payee, "30.0000001", usdc)]);
  await net.send([payee], [pay(issuer, "0.0000001", usdc)]);

  const { balances } = await net.server.loadAccount(payee.publicKey());
  expect(balances[0]).toMatchObject({
    asset_type: "credit_alphanum4",
    asset_code: "USDC",
    asset_issuer: issuer.publicKey(),
    balance: "30.0000000",
    limit: "50.0000000",
    is_authorized: true,
  });
  const line = net.chain.account(payer.publicKey())?.trustLines.get(`USDC:${issuer.publicKey()}`);
  expect(line?.balance).toBe(699_999_999n);
});

test("the SDK finds accounts, fees, time bounds, ledgers and the network", async ({ start }) => {
  // It stands still, so that no empty ledger closes meanwhile.
  const now = new Date();
  const net = await start({ now: () => now });
  const account = await net.fund();

  const loaded = await net.server.loadAccount(account.publicKey());
  expect(loaded.data_attr).toEqual({});
  expect(loaded.signers).toEqual([
    { key: account.publicKey(), weight: 1, type: "ed25519_public_key" },
  ]);
  expect(loaded.sequence).toBe(net.chain.account(account.publicKey())?.sequence.toString());
  expect(await net.server.fetchBaseFee()).toBe(100);
  const stats = await net.server.feeStats();
  expect(stats.fee_charged.p99).toBe("100");
  expect(stats.last_ledger).toBe(String(net.chain.latest().sequence));
  const front = await net.server.root();
  expect(front.network_passphrase).toBe(net.passphrase);
  expect(front.history_latest_ledger).toBe(net.chain.latest().sequence);
  const page = await net.server.ledgers().order("desc").limit(2).call();
  expect(page.records.map(({ sequence }) => sequence)).toEqual([2, 1]);
  expect(page.records[0]?.prev_hash).toBe(page.records[1]?.hash);
  const { maxTime } = await net.server.fetchTimebounds(100);
  const ahead = Number(maxTime) - net.chain.latest().closeTime;
  expect(ahead).toBeGreaterThanOrEqual(99);
});

test("data entries and options are read back as they were set", async ({ start }) => {
  const net = await start();
  const account = await net.fund();

  await net.send(
    [account],
    [
      Operation.manageData({ name: "config.memo_required", value: "1" }),
      Operation.setOptions({ homeDomain: "example.org" }),
    ],
  );

  const loaded = await net.server.loadAccount(account.publicKey());
  expect(loaded.data_attr).toEqual({ "config.memo_required": "MQ==" });
  expect(loaded.home_domain).toBe("example.org");
  expect(loaded.subentry_count).toBe(1);
  const other = await net.fund();
  const transaction = await net.build([other], [pay(account, "1")]);
  await expect(net.server.submitTransaction(transaction)).rejects.toThrow("memo");
});

test("accounts asked for at the same time are funded by one ledger", async ({ start }) => {
  const net = await start({ closeDelayMs: 1_000 });

  const made = await Promise.all(Array.from({ length: 8 }, () => net.fund()));

  expect(net.chain.latest().sequence).toBe(2);
  for (const keypair of made) {
    expect(net.chain.account(keypair.publicKey())?.balance).toBe(100_000_000_000n);
  }
});

test.for([
  ["an account that exists", (): string => root.publicKey(), 400],
  ["no address", (): string => "", 400],
  ["a broken address", (): string => Keypair.random().publicKey().slice(1), 400],
] as const)("friendbot refuses %s", async ([, address, status], { start }) => {
  const net = await start();

  const response = await fetch(`${net.url}/friendbot?addr=${address()}`, { method: "POST" });

  expect(response.status).toBe(status);
  expect(response.headers.get("content-type")).toBe("application/problem+json");
});

test.for([
  ["GET", "/nothing", undefined, 404],
  ["GET", "/accounts/GNOTHING", undefined, 400],
  ["GET", `/accounts/${Keypair.random().publicKey()}`, undefined, 404],
  ["GET", `/accounts/${Keypair.random().publicKey()}/payments`, undefined, 404],
  ["GET", `/transactions/${"0".repeat(64)}`, undefined, 404],
  ["GET", "/ledgers/99999999", undefined, 404],
  ["GET", "/ledgers?limit=201", undefined, 400],
  ["GET", "/ledgers?limit=0", undefined, 400],
  ["GET", "/ledgers?cursor=x", undefined, 400],
  ["GET", "/ledgers?order=up", undefined, 400],
  ["DELETE", "/transactions", undefined, 404],
  ["POST", "/transactions", "tx=AAAA", 400],
  ["POST", "/transactions", "", 400],
  ["POST", "/transactions", `tx=${"A".repeat(300_000)}`, 413],
] as const)("%s %s is refused", async ([method, path, body, status], { start }) => {
  const net = await start();

  const response = await fetch(net.url + path, {
    method,
    ...(body !== undefined && {
      body,
      headers: { "content-type": "application/x-www-form-urlencoded" },
    }),
  });

  expect(response.status).toBe(status);
  expect(await response.json()).toMatchObject({ status });
});

test("a submission that is no form is refused", async ({ start }) => {
  const net = await start();

  const response = await fetch(`${net.url}/transactions`, {
    method: "POST",
    body: "{}",
    headers: { "content-type": "application/json" },
  });

  expect(response.status).toBe(415);
});

test("payments are paged both ways without gap or repeat, failed ones on request", async ({
  start,
}) => {
  const net = await start();
  const [payer, payee] = [await net.fund(), await net.fund()];
  for (let round = 1; round <= 3; round++) {
    const operations = [pay(payee, `${round}.1`), pay(payee, `${round}.2`)];
    await net.send([payer], [Operation.setOptions({ homeDomain: "a.b" }), ...operations]);
  }
  await expect(net.send([payer], [pay(payee, "99999")])).rejects.toThrow();

  const amounts: string[] = [];
  let page: Page = await net.server.payments().forAccount(payee.publicKey()).limit(2).call();
  for (let pages = 0; page.records.length > 0 && pages < 10; pages++) {
    for (const { amount } of page.records as { amount?: string }[]) amounts.push(amount ?? "new");
    page = await nextPage(page);
  }

  const expected = ["new", "1.1", "1.2", "2.1", "2.2", "3.1", "3.2"].map((amount) =>
    amount === "new" ? amount : `${amount}000000`,
  );
  expect(amounts).toEqual(expected);
  const newest = await net.server
    .payments()
    .forAccount(payee.publicKey())
    .order("desc")
    .includeFailed(true)
    .join("transactions")
    .limit(1)
    .call();
  expect(newest.records[0]).toMatchObject({
    type: "payment",
    type_i: 1,
    transaction_successful: false,
    from: payer.publicKey(),
    to: payee.publicKey(),
    asset_type: "native",
    amount: "99999.0000000",
  });
  const joined = await newest.records[0]?.transaction();
  expect(joined?.successful).toBe(false);
  const older = await newest.next();
  expect(older.records[0]).toMatchObject({ amount: "3.2000000", transaction_successful: true });
  const all = await net.server.operations().forAccount(payer.publicKey()).limit(200).call();
  expect(all.records.map(({ type }) => type)).toHaveLength(1 + 9);
});

test("an account's transactions and a transaction's operations are listed", async ({ start }) => {
  const net = await start();
  const [payer, payee] = [await net.fund(), await net.fund()];
  const sent = await net.send([payer], [pay(payee, "1"), Operation.bumpSequence({ bumpTo: "0" })]);

  const transactions = await net.server.transactions().forAccount(payee.publicKey()).call();
  const operations = await net.server.operations().forTransaction(sent.hash).call();
  const payments = await net.server.payments().forTransaction(sent.hash).call();

  expect(transactions.records.map(({ hash }) => hash)).toContain(sent.hash);
  expect(operations.records.map(({ type }) => type)).toEqual(["payment", "bump_sequence"]);
  expect(operations.records.map(({ paging_token }) => BigInt(paging_token) & 0xfffn)).toEqual([
    1n,
    2n,
  ]);
  expect(BigInt(operations.records[0]?.paging_token ?? 0) >> 32n).toBe(BigInt(sent.ledger));
  expect(payments.records).toHaveLength(1);
});

test("empty ledgers close while time passes, so that an expiry can be seen", async ({ start }) => {
  let now = 1_700_000_000_000;
  const net = await start({ now: () => new Date(now), closeDelayMs: null });
  const before = net.chain.latest();

  now += 23_000;
  const idle = await net.server.ledgers().order("desc").limit(3).call();
  const made = await net.closeLedger();

  expect(idle.records.map(({ sequence }) => sequence)).toEqual([5, 4, 3]);
  expect(net.chain.ledger(5)?.closeTime).toBe(before.closeTime + 20);
  expect(made).toEqual({ sequence: 6, closeTime: before.closeTime + 23 });
  expect(net.chain.ledger(6)?.previousHash).toBe(idle.records[0]?.hash);
});

test("close times rise even when ledgers close faster than the clock", async ({ start }) => {
  const now = new Date(1_700_000_000_000);
  const net = await start({ now: () => now, closeDelayMs: null });

  const times = [];
  for (let index = 0; index < 3; index++) times.push((await net.closeLedger()).closeTime);

  expect(times).toEqual([1_700_000_001, 1_700_000_002, 1_700_000_003]);
  const response = await fetch(net.url);
  expect(response.headers.get("date")).toBe(new Date(1_700_000_003_000).toUTCString());
});

test("an asset nobody issued cannot be trusted, and an asset is not XLM", async ({ start }) => {
  const net = await start();
  const account = await net.fund();
  const asset = new Asset("LONGCODE", Keypair.random().publicKey());

  const attempt = net.send([account], [Operation.changeTrust({ asset })]);

  await expect(attempt).rejects.toThrow();
  expect(net.chain.account(account.publicKey())?.trustLines.size).toBe(0);
});

type Page = Awaited<ReturnType<ReturnType<Net["server"]["payments"]>["call"]>>;

function nextPage(page: Page): Promise<Page> {
  return page.next();
}
