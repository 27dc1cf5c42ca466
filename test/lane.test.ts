import { sql } from "slonik";
import { expect } from "vitest";
import { z } from "zod";
import type { Database } from "../src/db/database.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

const session = sql.type(z.object({ pid: z.number() }))`select pg_backend_pid() as pid`;

function pid(db: Database): Promise<number> {
  return db.systemStatement(async (one) => (await one.one(session)).pid);
}

test("statements one after the other share a session that is not reset in between", async ({
  app,
}) => {
  const latest = () =>
    asSuperuser(app, async (client) => {
      const [first, second] = [await pid(app.db), await pid(app.db)];
      const { rows } = await client.query("select query from pg_stat_activity where pid = $1", [
        second,
      ]);
      return second === first ? rows[0].query : "another session";
    });

  // A session that nothing uses for a second is given back: two looks are needed within it.
  await expect.poll(latest).toContain("pg_backend_pid");
});

test("statements at once have sessions of their own", async ({ app }) => {
  const [first, second] = await Promise.all([pid(app.db), pid(app.db)]);

  expect(second).not.toBe(first);
});

test("what a statement fails with is told, and the next one is served", async ({ app }) => {
  await expect(
    app.db.systemStatement((one) => one.query(sql.unsafe`select 1 / 0`)),
  ).rejects.toThrow();

  expect(await pid(app.db)).toBeGreaterThan(0);
});

test("a session that is ended is replaced", async ({ app }) => {
  const first = await pid(app.db);
  await asSuperuser(app, (client) => client.query("select pg_terminate_backend($1)", [first]));

  const next = await pid(app.db).catch(() => pid(app.db));

  expect(next).not.toBe(first);
});
