// A process of its own that says which keys it accepts, and revokes; and that verifies secrets as the server does.
// Started by trust-processes.ts.
import { sql } from "slonik";
import { z } from "zod";
import { openPool, type Tx } from "../../src/db/pool.ts";
import { openTrust } from "../../src/db/trust.ts";
import { createQuotas } from "../../src/keys/quota.ts";
import { createUseLog } from "../../src/keys/use-log.ts";
import { createVerifier } from "../../src/keys/verify.ts";
import { createLimiter } from "../../src/rpc/limiter.ts";
import type { Answer, Question, TrustUrls } from "./trust-processes.ts";

const { workerUrl, listenUrl }: TrustUrls = JSON.parse(process.argv[2] ?? "{}");
const topic = "test_key";
const keyRow = z.object({ key: z.string() });

const pool = await openPool({ url: workerUrl, role: "callora_worker", connectionsMax: 8 });
const systemTransaction = <T>(work: (tx: Tx) => Promise<T>) => pool.transaction(work);
const db = { systemTransaction };
const trust = await openTrust({ db, listenUrl, onError: () => {} });
const memory = trust.remember(topic, { load, entriesMax: 1_000 });
const now = () => new Date();
const verifier = createVerifier({
  db,
  trust,
  limiter: createLimiter(),
  quotas: createQuotas({ db, now }),
  useLog: createUseLog({ db }),
  now,
});

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
    return question.verb === "verify"
      ? { code: await verify(question) }
      : { accepts: (await memory.get(question.key)) === true };
  } catch (error) {
    return { error: error instanceof Error ? error.name : String(error) };
  }
}

async function verify({ key, cost }: Question): Promise<string> {
  const use = { apiId: null, clientIp: null, permission: null, cost };
  const { code } = await verifier.verify(key, use, () => true);
  return code;
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
