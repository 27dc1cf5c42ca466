import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { platformAccountId } from "../src/ledger/store.ts";
import { takeDeposits } from "../src/settlement/deposits.ts";
import { createHorizon } from "../src/stellar/horizon.ts";
import { openBooksAndNetwork } from "./support/books.ts";

const contract = `C${"A".repeat(55)}`;

type OperationJson = { paging_token: string; [name: string]: unknown };

/** A Horizon that knows these operations, as payments of anybody. */
async function startHorizon(records: readonly OperationJson[]) {
  let shown = records;
  const server = createServer((req, res) => {
    const query = new URL(req.url ?? "", "http://x").searchParams;
    const after = BigInt(query.get("cursor") ?? 0);
    const found = shown.filter(({ paging_token }) => BigInt(paging_token) > after);
    res.setHeader("content-type", "application/json");
    res.end(JSON.stringify({ _embedded: { records: found } }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    horizon: createHorizon(`http://127.0.0.1:${port}`),
    /** What it knows from now on. */
    show: (others: readonly OperationJson[]) => {
      shown = others;
    },
    async [Symbol.asyncDispose]() {
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

test("what a contract pays to the treasury is a deposit, each of it once", async () => {
  await using books = await openBooksAndNetwork();
  const { network } = books;
  const treasury = network.treasury.publicKey();
  const { rows } = await books.superuser.query("select cursor from payment_cursors");
  const token = BigInt(rows[0].cursor) + 1n;
  const asset = { asset_type: "credit_alphanum4", asset_code: "USDC" };
  const usdc = { ...asset, asset_issuer: network.asset.issuer };
  const operation = {
    type: "invoke_host_function",
    transaction_successful: true,
    created_at: "2026-11-01T00:00:00Z",
    transaction: { memo_type: "none" },
  };
  const transfer = { type: "transfer", from: contract, to: treasury, amount: "2.5000000" };
  await using server = await startHorizon([
    {
      ...operation,
      paging_token: `${token}`,
      transaction_hash: "aa",
      asset_balance_changes: [
        { ...usdc, ...transfer },
        { ...usdc, ...transfer },
        { ...usdc, type: "mint", to: treasury, amount: "1.0000000" },
        { ...usdc, ...transfer, to: contract },
        { ...asset, ...transfer, asset_issuer: contract },
        { ...asset, ...transfer, asset_issuer: contract, to: contract, amount: `${2n ** 100n}.0` },
      ],
    },
    {
      ...operation,
      paging_token: `${token + 1n}`,
      transaction_hash: "bb",
      transaction_successful: false,
      asset_balance_changes: [{ ...usdc, ...transfer }],
    },
    {
      ...operation,
      paging_token: `${token + 2n}`,
      transaction_hash: "cc",
      asset_balance_changes: null,
    },
  ]);
  const before = await books.held(platformAccountId, "treasury_equity");
  const told: bigint[] = [];
  const deps = {
    db: books.db,
    network: { ...network, horizon: server.horizon },
    now: () => new Date(),
    tell: async () => {},
    onUnmatched: ({ amountNanos }: { amountNanos: bigint }) => told.push(amountNanos),
  };

  while (await takeDeposits(deps)) {}
  while (await takeDeposits(deps)) {}

  expect(told).toEqual([2_500_000_000n, 2_500_000_000n, 1_000_000_000n]);
  expect((await books.held(platformAccountId, "treasury_equity")) - before).toBe(6_000_000_000n);
  const cursors = await books.superuser.query("select cursor from payment_cursors");
  expect(cursors.rows).toEqual([{ cursor: `${token + 2n}` }]);
});

test("a ledger that begins anew has other payments, though they stand at the same places", async () => {
  await using books = await openBooksAndNetwork();
  const { network } = books;
  const { rows } = await books.superuser.query("select cursor from payment_cursors");
  const cursor = rows[0].cursor;
  const payment = {
    paging_token: `${BigInt(cursor) + 1n}`,
    type: "payment",
    transaction_successful: true,
    created_at: "2026-11-01T00:00:00Z",
    asset_code: "USDC",
    asset_issuer: network.asset.issuer,
    from: contract,
    to: network.treasury.publicKey(),
    amount: "1.0000000",
  };
  await using server = await startHorizon([{ ...payment, transaction_hash: "aa" }]);
  const told: string[] = [];
  const deps = {
    db: books.db,
    network: { ...network, horizon: server.horizon },
    now: () => new Date(),
    tell: async () => {},
    onUnmatched: ({ eventId }: { eventId: string }) => told.push(eventId),
  };

  while (await takeDeposits(deps)) {}
  server.show([{ ...payment, transaction_hash: "bb" }]);
  await books.superuser.query("update payment_cursors set cursor = $1", [cursor]);
  while (await takeDeposits(deps)) {}
  // Another network has a place of its own: nothing of it is entered yet.
  const other = { ...deps, network: { ...deps.network, passphrase: "another" } };
  expect(await takeDeposits(other)).toBe(false);

  expect(told).toEqual([`aa:${payment.paging_token}:0`, `bb:${payment.paging_token}:0`]);
  expect(await books.sum("select count(*) as sum from payment_cursors")).toBe(1n);
});
