// A process of its own that applies the journal as the server does. Started by projector-processes.ts.
import { openPool, type Tx } from "../../src/db/pool.ts";
import { shardCount } from "../../src/metering/entry.ts";
import { startProjectors } from "../../src/metering/projectors.ts";
import type { ProjectorSettings } from "./projector-processes.ts";

const { workerUrl, holder }: ProjectorSettings = JSON.parse(process.argv[2] ?? "{}");

const pool = await openPool({ url: workerUrl, role: "callora_worker", connectionsMax: 4 });
const projectors = startProjectors({
  db: { systemTransaction: <T>(work: (tx: Tx) => Promise<T>) => pool.transaction(work) },
  progress: { note: () => {} },
  shards: shardCount,
  holder,
  debtLimitNanos: 100_000_000_000n,
  now: () => new Date(),
  onError: () => {},
  metrics: { held: () => {}, applied: () => {}, failed: () => {}, stuck: () => {} },
});

process.on("disconnect", async () => {
  await projectors.stop({ deadlineMs: 5_000 });
  await pool.end();
  process.exit(0);
});
process.send?.("ready");
