import { Keypair } from "@stellar/stellar-sdk/base";
import { createApp } from "./app.ts";
import { insertAudit } from "./audit/store.ts";
import { readConfig } from "./config.ts";
import { createDatabase } from "./db/database.ts";
import type { Pool } from "./db/pool.ts";
import type { RouteInfo } from "./edge/server.ts";
import { createLogger } from "./log.ts";
import { createMetrics } from "./metrics.ts";
import { openNetwork } from "./stellar/network.ts";

/**
 * List everything that a server serves, without one and without a database.
 *
 * It asks the app itself, which is built and never listens: a second list would one day differ.
 */
export async function listRoutes(): Promise<RouteInfo[]> {
  const key = Keypair.random();
  const app = createApp({
    config: readConfig({}),
    secretKey: "",
    db: createDatabase({ app: noPool, worker: noPool, appendAudit: insertAudit }),
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
  return app.routes();
}

const noPool: Pool = {
  transaction: () => Promise.reject(new Error("Cannot use the database: there is none")),
  end: async () => {},
};
