import { BackendTerminatedError } from "slonik";
import { expect, inject, test } from "vitest";
import { createDatabase } from "../src/db/database.ts";
import { openPool } from "../src/db/pool.ts";
import { createJournal } from "../src/metering/journal.ts";
import { openBlackHole } from "./support/black-hole.ts";
import { newAccountId, usage } from "./support/books.ts";
import { createDatabase as createTestDatabase } from "./support/cluster.ts";
import { queryAll } from "./support/query.ts";

test("the journal goes on when its connections are gone without a word", {
  timeout: 30_000,
}, async () => {
  const database = await createTestDatabase(inject("cluster"));
  const { worker, superuser } = database.urls;
  await using hole = await openBlackHole(worker);
  const url = hole.through(worker);
  const pool = await openPool({
    url,
    role: "callora_worker",
    connectionsMax: 2,
    statementMs: 500,
  });
  const db = createDatabase({ app: pool, worker: pool, appendAudit: async () => {} });
  const journal = createJournal({ db, onAppended: () => {} });
  const entry = usage({ account: newAccountId(), developer: newAccountId() });
  const append = () => journal.append([entry]);
  await append();

  hole.swallow();
  const begun = performance.now();
  const silent = append();
  silent.catch(() => {});
  hole.forget();

  await expect(silent).rejects.toBeInstanceOf(BackendTerminatedError);
  expect(performance.now() - begun).toBeLessThan(4_000);
  // Each of the old connections is found out at most once.
  const later = await Promise.allSettled([append(), append()]);
  expect(later.map(({ status }) => status)).toContain("fulfilled");
  const { position } = await append();
  expect(await queryAll(superuser, "select position from journal_head")).toEqual([
    { position: `${position}` },
  ]);
  await db.close();
  await database.drop();
});
