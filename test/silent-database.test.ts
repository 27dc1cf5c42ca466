import { BackendTerminatedError, sql } from "slonik";
import { expect, inject, test } from "vitest";
import { createDatabase } from "../src/db/database.ts";
import { nothing, openPool } from "../src/db/pool.ts";
import { createJournal } from "../src/metering/journal.ts";
import { openBlackHole } from "./support/black-hole.ts";
import { newAccountId, usage } from "./support/books.ts";
import { createDatabase as createTestDatabase } from "./support/cluster.ts";
import { queryAll } from "./support/query.ts";

test("the journal goes on when its connections are gone without a word", async () => {
  const database = await createTestDatabase(inject("cluster"));
  const { worker, superuser } = database.urls;
  await using hole = await openBlackHole(worker);
  const url = hole.through(worker);
  const pool = await openPool({
    url,
    role: "callora_worker",
    connectionsMax: 2,
    statementMs: 2_000,
  });
  const db = createDatabase({ app: pool, worker: pool, appendAudit: async () => {} });
  const journal = createJournal({ db, onAppended: () => {} });
  const entry = usage({ account: newAccountId(), developer: newAccountId() });
  const append = () => journal.append([entry]);
  await append();

  const begun = performance.now();
  const inMiddle = db.systemTransaction(async (tx) => {
    await tx.query(sql.type(nothing)`select`);
    hole.swallow();
    hole.forget();
    await tx.query(sql.type(nothing)`select`);
  });

  await expect(inMiddle).rejects.toBeInstanceOf(BackendTerminatedError);
  expect(performance.now() - begun).toBeLessThan(15_000);
  // The other old connection is found out, if it is used at all.
  await Promise.allSettled([append(), append()]);
  const { position } = await append();
  expect(performance.now() - begun).toBeLessThan(30_000);
  expect(await queryAll(superuser, "select position from journal_head")).toEqual([
    { position: `${position}` },
  ]);
  await db.close();
  await database.drop();
});
