import {
  Asset,
  BadResponseError,
  Keypair,
  Operation,
  TransactionBuilder,
  xdr,
} from "@stellar/stellar-sdk";
import { expect } from "vitest";
import {
  codesOf,
  issuer,
  type Net,
  passphrase,
  pay,
  root,
  test,
  trust,
  usdc,
} from "./test-support.ts";

const skip = { skipMemoRequiredCheck: true };

function stateOf(net: Net, account: Keypair) {
  const { balance, sequence } = net.chain.account(account.publicKey()) ?? {};
  return { balance, sequence };
}

/** Payer with 100 USDC; payees by what is wrong with them. */
async function cast(net: Net) {
  const [made] = await Promise.all([
    Promise.all([net.fund(), net.fund(), net.fund(), net.fund(), net.fund(), net.fund()]),
    net.server.friendbot(issuer.publicKey()).call(),
  ]);
  const [payer, payee, noTrust, full, frozen, poor] = made;
  const flags = Operation.setOptions({ setFlags: 2 });
  const freeze = Operation.setTrustLineFlags({
    trustor: frozen.publicKey(),
    asset: usdc,
    flags: { authorized: false },
  });
  for (const holder of [payer, payee, frozen, poor]) await net.send([holder], [trust()]);
  await net.send([full], [trust("5")]);
  await net.send([issuer], [flags, pay(payer, "100", usdc), freeze]);
  return { payer, payee, noTrust, full, frozen, poor, missing: Keypair.random() };
}

test("each way a payment can fail has its code", async ({ start }) => {
  const net = await start();
  const { payer, payee, noTrust, full, frozen, poor, missing } = await cast(net);
  const cases: [Keypair, xdr.Operation, string][] = [
    [payer, pay(missing, "1"), "op_no_destination"],
    [payer, pay(missing, "1", usdc), "op_no_destination"],
    [payer, pay(noTrust, "1", usdc), "op_no_trust"],
    [payer, pay(full, "5.0000001", usdc), "op_line_full"],
    [payer, pay(frozen, "1", usdc), "op_not_authorized"],
    [noTrust, pay(payee, "1", usdc), "op_src_no_trust"],
    [frozen, pay(payee, "1", usdc), "op_src_not_authorized"],
    [poor, pay(payee, "1", usdc), "op_underfunded"],
    [payer, pay(payee, "9999"), "op_underfunded"],
    [payer, createAccount(payee, "5"), "op_already_exists"],
    [payer, createAccount(missing, "0.9999999"), "op_low_reserve"],
    [payer, createAccount(missing, "99999"), "op_underfunded"],
    [payer, trust("99.9999999"), "op_invalid_limit"],
    [
      payer,
      Operation.changeTrust({ asset: new Asset("EUR", missing.publicKey()) }),
      "op_no_issuer",
    ],
    [payer, Operation.manageData({ name: "none", value: null }), "op_data_name_not_found"],
    [payer, Operation.accountMerge({ destination: payee.publicKey() }), "op_has_sub_entries"],
    [noTrust, Operation.accountMerge({ destination: missing.publicKey() }), "op_no_account"],
  ];

  for (const [source, operation, code] of cases) {
    const before = stateOf(net, source);
    const codes = await codesOf(net.send([source], [operation]));

    expect(codes, code).toEqual({ transaction: "tx_failed", operations: [code] });
    const { balance = 0n, sequence = 0n } = before;
    expect(stateOf(net, source)).toEqual({ balance: balance - 100n, sequence: sequence + 1n });
  }
});

test("one bad payee among three: nothing is paid, each fault is named, the fee is charged", async ({
  start,
}) => {
  const net = await start();
  const { payer, payee, noTrust, full } = await cast(net);
  const before = stateOf(net, payer);

  const codes = await codesOf(
    net.send([payer], [pay(payee, "1", usdc), pay(noTrust, "1", usdc), pay(full, "2", usdc)]),
  );

  const operations = ["op_success", "op_no_trust", "op_success"];
  expect(codes).toEqual({ transaction: "tx_failed", operations });
  const lines = [payer, payee, full].map(
    (holder) => net.chain.account(holder.publicKey())?.trustLines.values().next().value?.balance,
  );
  expect(lines).toEqual([1_000_000_000n, 0n, 0n]);
  expect(stateOf(net, payer).balance).toBe((before.balance ?? 0n) - 300n);
});

test("what is refused before a ledger costs neither fee nor sequence", async ({ start }) => {
  const net = await start();
  const [payer, payee] = [await net.fund(), await net.fund()];
  const before = stateOf(net, payer);
  const now = net.chain.latest().closeTime;
  const operations = [pay(payee, "1")];
  const sequence = before.sequence ?? 0n;
  const stranger = Keypair.random();
  const refusals = [
    ["tx_bad_seq", await net.build([payer], operations, { sequence: `${sequence + 1n}` })],
    ["tx_bad_seq", await net.build([payer], operations, { sequence: `${sequence - 1n}` })],
    ["tx_bad_auth", await net.build([payer], operations).then(resignedBy(stranger))],
    ["tx_bad_auth", await net.build([payer], operations).then(resignedBy())],
    ["tx_bad_auth_extra", await net.build([payer, stranger], operations)],
    ["tx_too_late", await net.build([payer], operations, { maxTime: now - 1 })],
    ["tx_too_early", await net.build([payer], operations, { minTime: now + 3600 })],
    ["tx_insufficient_fee", await net.build([payer], operations, { fee: "99" })],
    ["tx_no_source_account", await net.build([stranger], operations)],
    ["tx_missing_operation", await net.build([payer], [])],
  ] as const;

  for (const [code, transaction] of refusals) {
    const codes = await codesOf(net.server.submitTransaction(transaction, skip));
    expect(codes).toEqual({ transaction: code });
  }
  expect(stateOf(net, payer)).toEqual(before);
  // Too late outranks a bad sequence: the reply does not tell that it is in no ledger.
  const both = await net.build([payer], operations, { maxTime: now - 1, sequence: "5" });
  expect(await codesOf(net.server.submitTransaction(both, skip))).toEqual({
    transaction: "tx_too_late",
  });
});

test("an account that cannot pay the fee out of its spendable balance is refused", async ({
  start,
}) => {
  const net = await start();
  const [payer, poor] = [await net.fund(), Keypair.random()];
  await net.send([payer], [createAccount(poor, "1.0000099")]);

  const codes = await codesOf(net.send([poor], [pay(payer, "0.0000001")]));

  expect(codes).toEqual({ transaction: "tx_insufficient_balance" });
});

test("a signature made for another network is worth nothing", async ({ start }) => {
  const net = await start();
  const payer = await net.fund();
  const { sequence = 0n } = stateOf(net, payer);
  const transaction = new TransactionBuilder(await net.server.loadAccount(payer.publicKey()), {
    fee: "100",
    networkPassphrase: "Another network",
  })
    .addOperation(pay(root, "1"))
    .setTimeout(0)
    .build();
  transaction.sign(payer);

  const codes = await codesOf(net.server.submitTransaction(transaction, skip));

  expect(codes).toEqual({ transaction: "tx_bad_auth" });
  expect(stateOf(net, payer).sequence).toBe(sequence);
});

test("an operation this ledger does not know is refused, not applied", async ({ start }) => {
  const net = await start();
  const payer = await net.fund();
  const claim = Operation.claimClaimableBalance({ balanceId: `00000000${"ab".repeat(32)}` });

  const codes = await codesOf(net.send([payer], [claim]));

  expect(codes).toEqual({ transaction: "tx_failed", operations: ["op_not_supported"] });
});

test("an account under two keys needs both", async ({ start }) => {
  const net = await start();
  const [shared, second, payee] = [await net.fund(), Keypair.random(), await net.fund()];
  await net.send(
    [shared],
    [
      Operation.setOptions({
        signer: { ed25519PublicKey: second.publicKey(), weight: 1 },
        lowThreshold: 1,
        medThreshold: 2,
        highThreshold: 2,
      }),
    ],
  );

  const alone = await codesOf(net.send([shared], [pay(payee, "1")]));
  const both = await net.send([shared, second], [pay(payee, "1")]);

  expect(alone).toEqual({ transaction: "tx_failed", operations: ["op_bad_auth"] });
  expect(both.successful).toBe(true);
});

test("an operation for another account needs that account's signature", async ({ start }) => {
  const net = await start();
  const [channel, treasury, payee] = [await net.fund(), await net.fund(), await net.fund()];
  const operation = Operation.payment({
    source: treasury.publicKey(),
    destination: payee.publicKey(),
    asset: Asset.native(),
    amount: "7",
  });

  const unsigned = await codesOf(net.send([channel], [operation]));
  await net.send([channel, treasury], [operation]);

  expect(unsigned).toEqual({ transaction: "tx_failed", operations: ["op_bad_auth"] });
  expect(stateOf(net, treasury).balance).toBe(99_930_000_000n);
  expect(stateOf(net, channel).balance).toBe(99_999_999_900n);
});

test("the same envelope again gives the same answer and moves nothing", async ({ start }) => {
  const net = await start();
  const [payer, payee] = [await net.fund(), await net.fund()];
  const good = await net.build([payer], [pay(payee, "1")]);

  const [first, twin] = await Promise.all([
    net.server.submitTransaction(good, skip),
    net.server.submitTransaction(good, skip),
  ]);
  const again = await net.server.submitTransaction(good, skip);
  const bad = await net.build([payer], [pay(payee, "99999")]);
  const failure = await codesOf(net.server.submitTransaction(bad, skip));
  const before = stateOf(net, payer);
  const failureAgain = await codesOf(net.server.submitTransaction(bad, skip));

  expect(again).toEqual(first);
  expect(twin).toEqual(first);
  expect(failureAgain).toEqual(failure);
  expect(failure).toEqual({ transaction: "tx_failed", operations: ["op_underfunded"] });
  expect(stateOf(net, payer)).toEqual(before);
  expect(stateOf(net, payee).balance).toBe(100_010_000_000n);
});

test("a fee bump lets another pay, and is found under both hashes", async ({ start }) => {
  const net = await start();
  const [payer, payee, sponsor] = [await net.fund(), await net.fund(), await net.fund()];
  const inner = await net.build([payer], [pay(payee, "1")]);
  const bump = TransactionBuilder.buildFeeBumpTransaction(sponsor, "200", inner, passphrase);
  bump.sign(sponsor);

  const sent = await net.server.submitTransaction(bump, skip);

  const outerHash = Buffer.from(bump.hash()).toString("hex");
  const innerHash = Buffer.from(inner.hash()).toString("hex");
  expect(sent.hash).toBe(outerHash);
  expect(stateOf(net, payer).balance).toBe(99_990_000_000n);
  expect(stateOf(net, sponsor).balance).toBe(99_999_999_800n);
  for (const hash of [outerHash, innerHash]) {
    const found = await net.server.transactions().transaction(hash).call();
    expect(found).toMatchObject({
      hash,
      successful: true,
      fee_charged: "200",
      max_fee: "400",
      fee_account: sponsor.publicKey(),
      source_account: payer.publicKey(),
      fee_bump_transaction: { hash: outerHash },
      inner_transaction: { hash: innerHash, max_fee: "100" },
    });
  }
  const resubmitted = await net.server.submitTransaction(inner, skip);
  expect(resubmitted).toMatchObject({ hash: innerHash, ledger: sent.ledger });
});

test("a fee bump around a bad transaction names the inner codes", async ({ start }) => {
  const net = await start();
  const [payer, payee] = [await net.fund(), await net.fund()];
  const inner = await net.build([payer], [pay(payee, "99999")]);
  const bump = TransactionBuilder.buildFeeBumpTransaction(payee, "100", inner, passphrase);
  const unsigned = await codesOf(net.server.submitTransaction(bump, skip));
  bump.sign(payee);

  const codes = await codesOf(net.server.submitTransaction(bump, skip));

  expect(unsigned).toEqual({ transaction: "tx_bad_auth" });
  expect(codes).toEqual({
    transaction: "tx_fee_bump_inner_failed",
    inner_transaction: "tx_failed",
    operations: ["op_underfunded"],
  });
});

test("one transaction of a source waits at a time; ten times the fee pushes it out", async ({
  start,
}) => {
  const net = await start({ closeDelayMs: null, submissionTimeoutMs: 50 });
  const payee = Keypair.random();
  const first = await net.build([root], [createAccount(payee, "1")]);
  const second = await net.build([root], [createAccount(payee, "2")], { sequence: "1" });
  const rival = await net.build([root], [createAccount(payee, "3")]);
  const bumped = (fee: string) => {
    const bump = TransactionBuilder.buildFeeBumpTransaction(root, fee, rival, passphrase);
    bump.sign(root);
    return net.server.submitAsyncTransaction(bump, skip).catch((error: unknown) => error);
  };

  const statuses = [
    await net.server.submitAsyncTransaction(first, skip),
    await asyncStatus(net, first),
    await asyncStatus(net, second),
    await asyncStatus(net, first),
  ].map((answer) => answer.tx_status);
  const late = await net.server.submitTransaction(second, skip).catch((error: unknown) => error);
  const cheap = await bumped("999");
  const dear = await bumped("1000");
  await net.closeLedger();

  expect(statuses).toEqual(["PENDING", "DUPLICATE", "TRY_AGAIN_LATER", "DUPLICATE"]);
  expect((late as BadResponseError).response.status).toBe(504);
  expect(cheap).toBeInstanceOf(BadResponseError);
  expect(dear).toMatchObject({ tx_status: "PENDING" });
  expect(net.chain.account(payee.publicKey())?.balance).toBe(30_000_000n);
  expect(await asyncStatus(net, rival)).toMatchObject({ tx_status: "TRY_AGAIN_LATER" });
});

test("result XDR of each answer decodes to the codes beside it", async ({ start }) => {
  const net = await start();
  const [payer, payee] = [await net.fund(), await net.fund()];

  const error = await net.send([payer], [pay(payee, "99999")]).catch((reason: unknown) => reason);

  const { extras } = (error as BadResponseError).response.data as unknown as {
    extras: { result_xdr: string };
  };
  const result = xdr.TransactionResult.fromXdr(extras.result_xdr, "base64");
  expect(result.feeCharged).toBe(100n);
  expect(JSON.parse(JSON.stringify(result))).toMatchObject({
    result: { tx_failed: [{ op_inner: { payment: "underfunded" } }] },
  });
});

test.for(["drop-after", "timeout-after"] as const)(
  "%s loses the answer, not the payment: a lookup finds it",
  async (fault, { start }) => {
    const net = await start({ fault: ({ nth }) => (nth === 1 ? fault : undefined) });
    const [payer, payee] = [await net.fund(), await net.fund()];
    const transaction = await net.build([payer], [pay(payee, "1")]);

    await expect(net.server.submitTransaction(transaction, skip)).rejects.toThrow();

    const hash = Buffer.from(transaction.hash()).toString("hex");
    const found = await net.server.transactions().transaction(hash).call();
    expect(found.successful).toBe(true);
    expect(stateOf(net, payee).balance).toBe(100_010_000_000n);
  },
);

test("drop-before leaves the ledger as it was, and the next attempt works", async ({ start }) => {
  const net = await start({ fault: ({ nth }) => (nth === 1 ? "drop-before" : { delayMs: 1 }) });
  const [payer, payee] = [await net.fund(), await net.fund()];
  const before = stateOf(net, payer);
  const transaction = await net.build([payer], [pay(payee, "1")]);

  await expect(net.server.submitTransaction(transaction, skip)).rejects.toThrow();

  expect(stateOf(net, payer)).toEqual(before);
  const sent = await net.server.submitTransaction(transaction, skip);
  expect(sent.successful).toBe(true);
});

function createAccount(account: Keypair, startingBalance: string): xdr.Operation {
  return Operation.createAccount({ destination: account.publicKey(), startingBalance });
}

function resignedBy(...signers: Keypair[]) {
  return (transaction: Awaited<ReturnType<Net["build"]>>) => {
    transaction.signatures.length = 0;
    for (const signer of signers) transaction.sign(signer);
    return transaction;
  };
}

async function asyncStatus(net: Net, transaction: { toEnvelope(): xdr.TransactionEnvelope }) {
  const response = await fetch(`${net.url}/transactions_async`, {
    method: "POST",
    body: new URLSearchParams({ tx: transaction.toEnvelope().toXdr("base64") }),
  });
  return (await response.json()) as { tx_status: string };
}
