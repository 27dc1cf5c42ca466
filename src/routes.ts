import { randomBytes } from "node:crypto";
import { Keypair } from "@stellar/stellar-sdk/base";
import { createApp } from "./app.ts";
import { insertAudit } from "./audit/store.ts";
import { readConfig } from "./config.ts";
import { createSealer } from "./credentials/seal.ts";
import { createDatabase } from "./db/database.ts";
import type { Pool } from "./db/pool.ts";
import type { Trust } from "./db/trust.ts";
import type { RouteInfo } from "./edge/server.ts";
import { createLogger } from "./log.ts";
import { createMetrics } from "./metrics.ts";
import { openNetwork } from "./stellar/network.ts";

/**
 * List everything that a server serves, by path, then method, without one and without a database.
 *
 * It asks the app itself, which is built and never listens: a second list would one day differ.
 */
export async function listRoutes(): Promise<RouteInfo[]> {
  const key = Keypair.random();
  const app = createApp({
    config: readConfig({}),
    secretKey: "",
    sealer: createSealer({ keys: [{ version: 1, key: randomBytes(32) }] }),
    db: createDatabase({ app: noPool, worker: noPool, appendAudit: insertAudit }),
    trust: noTrust,
    // Opening it connects to nothing.
    network: await openNetwork({
      name: "testnet",
      horizonUrl: "http://127.0.0.1",
      asset: { code: "USDC", issuer: key.publicKey() },
      treasurySecret: key.secret(),
      channelSecret: key.secret(),
    }),
    log: createLogger({ level: "silent" }),
    metrics: createMetrics(),
    now: () => new Date(),
    version: "",
    ownPorts: [],
  });
  return app.routes().sort((a, b) => compare(a.path, b.path) || compare(a.method, b.method));
}

// Not localeCompare: the order must not depend on the machine.
function compare(a: string, b: string): number {
  return a === b ? 0 : a < b ? -1 : 1;
}

const noPool: Pool = {
  transaction: () => Promise.reject(new Error("Cannot use the database: there is none")),
  statement: () => Promise.reject(new Error("Cannot use the database: there is none")),
  end: async () => {},
};

const noTrust: Trust = {
  announce: () => Promise.reject(new Error("Cannot announce: there is no database")),
  settled: async () => {},
  remember: () => ({
    get: () => Promise.reject(new Error("Cannot remember: there is no database")),
    onForgotten: () => () => {},
    watch: () => () => {},
  }),
  stats: () => ({ isHeld: false, losses: 0, refusals: 0, hits: 0, loads: 0, entries: 0 }),
  close: async () => {},
};
