import pg from "pg";
import { expect } from "vitest";

/** Work in a database as its superuser, whom no policy stops. */
export async function asSuperuser<T>(
  { urls }: { urls: { superuser: string } },
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({ connectionString: urls.superuser, statement_timeout: 10_000 });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Change rows in a transaction that lasts until the call waits for it, or has an answer. */
export async function changeAmid<T>(
  app: { urls: { superuser: string } },
  statements: readonly string[],
  call: () => Promise<T>,
): Promise<T> {
  return asSuperuser(app, async (client) => {
    await client.query("begin");
    for (const statement of statements) {
      await client.query(statement);
    }
    let isAnswered = false;
    const answer = call().finally(() => {
      isAnswered = true;
    });
    answer.catch(() => {});
    // Passwords are hashed before: on a busy machine that takes its time.
    await expect
      .poll(
        async () => {
          // Within a transaction sessions that were opened after the first look would not be seen.
          await client.query("select pg_stat_clear_snapshot()");
          const { rows } = await client.query(
            "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
          );
          return isAnswered || rows.length > 0;
        },
        { timeout: 10_000 },
      )
      .toBe(true);
    await client.query("commit");
    return answer;
  });
}
