import { appendFile, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Keypair, Operation } from "@stellar/stellar-sdk";
import { expect } from "vitest";
import { issuer, type Net, pay, test, trust, usdc } from "./test-support.ts";

async function busyNet(net: Net) {
  const [payer, payee] = [await net.fund(), await net.fund()];
  await net.server.friendbot(issuer.publicKey()).call();
  await net.send([payee], [trust(), Operation.manageData({ name: "a", value: "b" })]);
  await net.send([issuer], [pay(payee, "3", usdc)]);
  const sent = await net.send([payer], [pay(payee, "1")]);
  await net.send([payer], [pay(payee, "99999")]).catch(() => {});
  return { payer, payee, sent };
}

function everything(net: Net) {
  return {
    accounts: [...net.chain.accounts()].sort((a, b) => (a.id < b.id ? -1 : 1)),
    feePool: net.chain.feePool(),
    ledgers: [...net.chain.history.ledgers],
    transactions: [...net.chain.history.transactions],
  };
}

test("a restart changes no account, no ledger and no answer", async ({ start }) => {
  const net = await start();
  const { payee, sent } = await busyNet(net);
  const before = everything(net);
  const found = await net.server.transactions().transaction(sent.hash).call();
  const page = await net.server.payments().forAccount(payee.publicKey()).call();

  const again = await net.restart();

  try {
    expect(everything(again)).toEqual(before);
    const foundAgain = await again.server.transactions().transaction(sent.hash).call();
    expect(foundAgain.result_xdr).toBe(found.result_xdr);
    expect(foundAgain.paging_token).toBe(found.paging_token);
    const pageAgain = await again.server.payments().forAccount(payee.publicKey()).call();
    expect(pageAgain.records.map(({ id }) => id)).toEqual(page.records.map(({ id }) => id));
    const other = await again.fund();
    expect(again.chain.account(other.publicKey())).toBeDefined();
  } finally {
    await again.close();
  }
});

test("what was answered is in the log, though nothing was closed in good order", async ({
  start,
}) => {
  const net = await start();
  const { sent } = await busyNet(net);
  const before = everything(net);
  const copy = await start();
  await copy.close();
  const log = await readFile(join(net.directory, "ledger.log"));
  await writeFile(join(copy.directory, "ledger.log"), log);

  const survivor = await start({ directory: copy.directory });

  expect(everything(survivor)).toEqual(before);
  expect(survivor.chain.history.find(sent.hash)?.isSuccessful).toBe(true);
});

test.for([
  ["half a line", (log: string) => appendFile(log, '00000000 {"sequence":')],
  ["a whole line that is not what was written", (log: string) => appendFile(log, "00000000 {}\n")],
  ["zeros", (log: string) => appendFile(log, Buffer.alloc(4096))],
] as const)("%s at the end of the log is dropped", async ([, tear], { start }) => {
  const net = await start();
  await busyNet(net);
  const before = everything(net);
  await net.close();
  await tear(join(net.directory, "ledger.log"));

  const again = await start({ directory: net.directory });
  expect(everything(again)).toEqual(before);
  const made = await again.fund();
  const after = everything(again);
  await again.close();

  const third = await start({ directory: net.directory });
  expect(everything(third)).toEqual(after);
  expect(third.chain.account(made.publicKey())).toBeDefined();
});

test("a ledger that was torn off takes all its effects with it", async ({ start }) => {
  const net = await start();
  const account = await net.fund();
  const before = everything(net);
  await net.send([account], [pay(issuer, "1")]).catch(() => {});
  await net.close();
  const path = join(net.directory, "ledger.log");
  await truncate(path, (await readFile(path)).length - 10);

  const again = await start({ directory: net.directory });

  expect(everything(again)).toEqual(before);
});

test("a log damaged before its end is refused", async ({ start }) => {
  const net = await start();
  await busyNet(net);
  await net.close();
  const path = join(net.directory, "ledger.log");
  const log = await readFile(path);
  log[log.length >> 1] = (log[log.length >> 1] ?? 0) ^ 1;
  await writeFile(path, log);

  await expect(start({ directory: net.directory })).rejects.toThrow("damaged at byte");
});

test("a log of another network or root account is refused", async ({ start }) => {
  const net = await start();
  const { directory } = net;
  await net.close();

  await expect(start({ directory, passphrase: "Another" })).rejects.toThrow("another network");
  const masterSecret = Keypair.random().secret();
  await expect(start({ directory, masterSecret })).rejects.toThrow("another network");
});

test("a second writer on the same log is noticed before it does harm", async ({ start }) => {
  const net = await start({ submissionTimeoutMs: 50 });
  const account = await net.fund();
  await appendFile(join(net.directory, "ledger.log"), "x");

  const attempt = net.send([account], [pay(issuer, "1")]);

  await expect(attempt).rejects.toThrow();
  expect(net.chain.history.transactions).toHaveLength(1);
  await expect(net.closeLedger()).rejects.toThrow("Cannot append to ledger log");
});
