import { Counter } from "prom-client";
import { deleteOldChallenges } from "./accounts/identity-store.ts";
import type { LastUses } from "./accounts/last-uses.ts";
import { updateServiceTokenUses } from "./accounts/service-token-store.ts";
import { deleteExpiredSessions } from "./accounts/session-store.ts";
import { updateTokenUses } from "./accounts/token-store.ts";
import { listApiNames } from "./catalog/names.ts";
import type { Config } from "./config.ts";
import { createResealGauges } from "./credentials/gauges.ts";
import { resealNext } from "./credentials/loop.ts";
import type { Sealer } from "./credentials/seal.ts";
import { type LowBalance, tellLowBalances } from "./credits/alert.ts";
import { expireNext } from "./credits/expiry.ts";
import { issueInvoices } from "./credits/invoice-loop.ts";
import { drainedMax, drainLeases } from "./credits/lease-end.ts";
import type { ConfirmedPayment, PurchasePaid } from "./credits/purchase.ts";
import type { Database } from "./db/database.ts";
import { deleteOldAnswers } from "./db/once.ts";
import type { Tx } from "./db/pool.ts";
import type { UseLog } from "./keys/use-log.ts";
import { type Loop, startLoop } from "./lib/loop.ts";
import type { Logger } from "./log.ts";
import { archiveNext } from "./metering/archive.ts";
import { listBillLines } from "./metering/bill-lines.ts";
import { shardCount, shardOf } from "./metering/entry.ts";
import { getWatermark } from "./metering/journal.ts";
import { buildNextMeter } from "./metering/meter-build.ts";
import { recountNextMeter } from "./metering/meter-recount.ts";
import { closeEndedPeriods } from "./metering/periods.ts";
import { insertMessages } from "./metering/projections.ts";
import { findClosedMonths } from "./metering/totals.ts";
import type { Metrics } from "./metrics.ts";
import { takeDeposits } from "./settlement/deposits.ts";
import { settleNext } from "./settlement/loop.ts";
import type { StellarNetwork } from "./stellar/network.ts";

interface Deps {
  db: Database;
  sealer: Sealer;
  network: StellarNetwork;
  log: Logger;
  metrics: Metrics;
  now: () => Date;
  maintain?: () => Promise<void>;
  config: Pick<Config, "archiveDir" | "journalKeepDays">;
}

/** What a loop does. */
type LoopName =
  | "archive"
  | "meters"
  | "meter recounts"
  | "partitions"
  | "settlement"
  | "credentials"
  | "housekeeping"
  | "leases"
  | "alerts"
  | "invoices"
  | "grants"
  | "deposits"
  | "key uses";

/** The background work. */
export interface Loops {
  start(): void;
  wake(name: LoopName): void;
  stop(): Promise<void>;
}

/** When tokens were last used, not yet written. */
export interface Uses {
  tokens: LastUses;
  services: LastUses;
}

/** Write down when tokens were last used. */
export async function writeUses(db: Database, { tokens, services }: Uses): Promise<void> {
  const [tokenUses, serviceUses] = [tokens.take(), services.take()];
  if (tokenUses.length > 0) {
    await db.systemTransaction((tx) => updateTokenUses(tx, tokenUses));
  }
  if (serviceUses.length > 0) {
    await db.systemTransaction((tx) => updateServiceTokenUses(tx, serviceUses));
  }
}

/** What is told stands in the outbox, with what made it so. */
export function tell(tx: Tx, message: LowBalance | PurchasePaid): Promise<void> {
  return insertMessages(tx, [message], shardOf(message.accountId, shardCount));
}

const dayMs = 24 * 60 * 60 * 1_000;

/** Make the loops of the background work. They run once started. */
export function createLoops(
  { db, sealer, network, log, metrics, now, maintain, config }: Deps,
  { useLog, uses }: { useLog: UseLog; uses: Uses },
): Loops {
  const running = new Map<LoopName, Loop>();
  const reseal = {
    db,
    sealer,
    onProgress: createResealGauges(metrics.registry),
    onUnreadable: (credentialId: string) =>
      log.error("Cannot open a credential: it was damaged", { credentialId }),
  };
  const unmatched = new Counter({
    name: "callora_deposits_unmatched_total",
    help: "Deposits that this process took and that name no purchase",
    registers: [metrics.registry],
  });
  function onUnmatched({ eventId, amountNanos, detail }: ConfirmedPayment) {
    unmatched.inc();
    const fields = { component: "deposits", eventId, amountNanos, reason: detail };
    log.warn("Cannot tell what a deposit bought: it names no purchase", fields);
  }
  function run(name: LoopName, intervalMs: number, tick: () => Promise<boolean>) {
    const onError = (err: unknown) =>
      log.warn("Cannot finish a round of a loop", { err, component: name });
    running.set(name, startLoop({ tick, intervalMs, onError }));
  }
  const invoices = {
    db,
    listLines: listBillLines,
    listApiNames,
    findClosedMonths,
    watermark: async (tx: Tx) => (await getWatermark(tx)).applied,
    onFailed: (err: unknown, of: { accountId: string; month: string }) =>
      log.error("Cannot issue an invoice", { err, component: "invoices", ...of }),
    now,
  };
  return {
    start() {
      const [built, recounted] = [{ after: "" }, { after: "" }];
      run("meters", 1_000, () => db.systemTransaction((tx) => buildNextMeter(tx, built)));
      run("meter recounts", 1_000, () =>
        db.systemTransaction((tx) => recountNextMeter(tx, recounted)),
      );
      if (maintain !== undefined) {
        // What fails is tried again before a day is over: a missing partition loses nothing meanwhile.
        run("partitions", dayMs, async () => {
          await maintain();
          return false;
        });
      }
      const { archiveDir: directory, journalKeepDays: keepDays } = config;
      if (directory !== undefined) {
        run("archive", 60_000, () => archiveNext({ db, directory, keepDays, now }));
      }
      run("key uses", 5_000, () => useLog.flush());
      run("settlement", 500, () => settleNext({ db, network, now }));
      run("alerts", 5_000, () =>
        db.systemTransaction((tx) => tellLowBalances(tx, (low) => tell(tx, low))),
      );
      run("invoices", 60_000, async () => {
        await db.systemTransaction(closeEndedPeriods);
        return issueInvoices(invoices);
      });
      run("grants", 1_000, () =>
        db.systemTransaction(async (tx) => {
          const { oldestWaiting: appliedUntil } = await getWatermark(tx);
          return expireNext(tx, { now: now(), appliedUntil });
        }),
      );
      // A public Horizon answers 3,600 requests an hour of one address.
      const depositsMs = network.name === "embedded" ? 1_000 : 5_000;
      run("deposits", depositsMs, () => takeDeposits({ db, network, now, tell, onUnmatched }));
      run("credentials", 5_000, () => resealNext(reseal, now()));
      run("housekeeping", 1_000, async () => {
        await db.systemTransaction((tx) => deleteExpiredSessions(tx, now()));
        await db.systemTransaction((tx) => deleteOldChallenges(tx, now()));
        await db.systemTransaction((tx) => deleteOldAnswers(tx, now()));
        await writeUses(db, uses);
        return false;
      });
      // By itself: whatever else fails, what a crashed process had set aside comes back.
      run("leases", 1_000, async () => {
        const drained = await db.systemTransaction((tx) => drainLeases(tx, { holder: null }));
        return drained === drainedMax;
      });
    },
    wake(name) {
      running.get(name)?.wake();
    },
    async stop() {
      await Promise.all([...running.values()].map((loop) => loop.stop()));
    },
  };
}
