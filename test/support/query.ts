import pg from "pg";

/** Send SQL to a database, as whoever the address says, and return the rows of the last statement. */
export async function queryAll(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url, statement_timeout: 10_000 });
  client.on("error", () => {});
  await client.connect();
  try {
    const results = [await client.query(text)].flat();
    return results.at(-1)?.rows ?? [];
  } finally {
    await client.end();
  }
}
