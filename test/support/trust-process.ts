// A process of its own that says which keys it accepts, and revokes. Started by trust-processes.ts.
import { sql } from "slonik";
import { z } from "zod";
import { openPool, type Tx } from "../../src/db/pool.ts";
import { openTrust } from "../../src/db/trust.ts";
import type { Answer, Question, TrustUrls } from "./trust-processes.ts";

const { workerUrl, listenUrl }: TrustUrls = JSON.parse(process.argv[2] ?? "{}");
const topic = "test_key";
const keyRow = z.object({ key: z.string() });

const pool = await openPool({ url: workerUrl, role: "callora_worker", connectionsMax: 8 });
const systemTransaction = <T>(work: (tx: Tx) => Promise<T>) => pool.transaction(work);
const trust = await openTrust({ db: { systemTransaction }, listenUrl, onError: () => {} });
const memory = trust.remember(topic, { load, entriesMax: 1_000 });

async function load(keys: readonly string[]): Promise<ReadonlyMap<string, true>> {
  const rows = await systemTransaction((tx) =>
    tx.any(sql.type(keyRow)`
      select key from test_keys
      where key = any(${sql.array([...keys], "text")}) and not is_revoked
    `),
  );
  return new Map(rows.map(({ key }) => [key, true]));
}

async function answer(question: Question): Promise<Answer["result"]> {
  if (question.verb === "revoke") {
    const epoch = await systemTransaction(async (tx) => {
      await tx.query(sql.type(z.unknown())`
        update test_keys set is_revoked = true where key = ${question.key}
      `);
      return trust.announce(tx, topic, [question.key]);
    });
    const begun = performance.now();
    await trust.settled(epoch);
    return { settledMs: performance.now() - begun };
  }
  try {
    return { accepts: (await memory.get(question.key)) === true };
  } catch (error) {
    return { error: error instanceof Error ? error.name : String(error) };
  }
}

process.on("message", (question: Question) => {
  answer(question).then(
    (result) => process.send?.({ id: question.id, result } satisfies Answer),
    (error) => process.send?.({ id: question.id, result: { error: String(error) } }),
  );
});
process.on("disconnect", async () => {
  await trust.close();
  await pool.end();
  process.exit(0);
});
process.send?.({ id: 0, result: {} } satisfies Answer);
