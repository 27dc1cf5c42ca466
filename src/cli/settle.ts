import { setTimeout as sleep } from "node:timers/promises";
import { SettlementService } from "../../gen/callora/settlement/v1/settlement_service_pb.ts";
import type { Database } from "../db/database.ts";
import { platformAccountId } from "../ledger/store.ts";
import { usdcText } from "../lib/money.ts";
import { closePeriods } from "../metering/periods.ts";
import { methodPolicy } from "../rpc/policy.ts";
import { type SettlementDeps, settleNext } from "../settlement/loop.ts";
import { planRun, startRun } from "../settlement/run.ts";
import { findSettlement, listPayouts } from "../settlement/store.ts";
import { type Context, operator } from "./context.ts";
import { withParts } from "./parts.ts";
import { formatTable } from "./table.ts";

const pollMs = 200;

/** Pay what is payable, and wait until each payout is paid or held. */
export async function run(
  context: Context,
  { minimum, timeoutSeconds }: { minimum: bigint; timeoutSeconds: number },
): Promise<void> {
  const { now, print } = context;
  await withParts(context, async ({ db, openNetwork }) => {
    const network = await openNetwork();
    const { auditAction } = methodPolicy(SettlementService.method.runSettlement);
    const tenant = operator(platformAccountId, auditAction);
    const id = await db.platformTransaction(tenant, async (tx, audit) => {
      const started = await startRun(tx, minimum, now());
      await closePeriods(tx, started, now());
      audit.record(`settlement:${started}`);
      return started;
    });
    print(`Run ${id}`);
    await finish({ db, network, now }, { id, timeoutSeconds });
    await printPayouts(db, id, print);
  });
}

/**
 * Take part in the run until it is done. A running server does the same: however many take part,
 * nobody is paid twice.
 */
async function finish(
  deps: SettlementDeps,
  { id, timeoutSeconds }: { id: string; timeoutSeconds: number },
): Promise<void> {
  const deadline = performance.now() + timeoutSeconds * 1_000;
  let failure = "";
  while (!(await isDone(deps.db, id))) {
    if (performance.now() > deadline) {
      const reason = `it is not done after ${timeoutSeconds} s, and goes on while a server runs`;
      throw new Error(`Cannot wait for run ${id}: ${reason}${failure}`);
    }
    const isBusy = await settleNext(deps).catch((error) => {
      failure = `; last failure: ${error instanceof Error ? error.message : String(error)}`;
      return false;
    });
    if (!isBusy) {
      await sleep(pollMs);
    }
  }
}

async function isDone(db: Database, id: string): Promise<boolean> {
  const settlement = await db.systemTransaction((tx) => findSettlement(tx, id));
  return settlement?.state === "done";
}

async function printPayouts(db: Database, id: string, print: Context["print"]): Promise<void> {
  const payouts = await db.systemTransaction((tx) => listPayouts(tx, id));
  if (payouts.length === 0) {
    print("Nothing to pay");
    return;
  }
  const rows = payouts.map((payout) => [
    payout.account_id,
    payout.address,
    usdcText(payout.amount_nanos),
    payout.state,
    payout.state === "held" ? payout.hold_reason : payout.transaction_hash,
  ]);
  const head = ["ACCOUNT", "ADDRESS", "USDC", "STATE", "TRANSACTION OR REASON"];
  for (const line of formatTable(head, rows, { right: ["USDC"] })) {
    print(line);
  }
}

/** List what a run would pay now. Changes nothing. */
export async function preview(context: Context, { minimum }: { minimum: bigint }): Promise<void> {
  const { print } = context;
  const plan = await withParts(context, ({ db }) =>
    db.systemTransaction((tx) => planRun(tx, minimum)),
  );
  const rows = plan.map(({ accountId, address, amountNanos }) => [
    accountId,
    address,
    usdcText(amountNanos),
  ]);
  for (const line of formatTable(["ACCOUNT", "ADDRESS", "USDC"], rows, { right: ["USDC"] })) {
    print(line);
  }
  const total = plan.reduce((sum, { amountNanos }) => sum + amountNanos, 0n);
  print(`${plan.length} payouts, ${usdcText(total)} USDC`);
}
