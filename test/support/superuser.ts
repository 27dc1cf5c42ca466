import pg from "pg";

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
