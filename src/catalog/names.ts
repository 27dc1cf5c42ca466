import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";

const nameRow = z.object({ id: z.string(), name: z.string() });

/** The names of APIs by their ids, whoever has them and in whatever state. */
export async function listApiNames(
  db: Queries,
  apiIds: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  const rows = await db.any(sql.type(nameRow)`
    select apis.id, apis.name from api_directory
    join apis on apis.account_id = api_directory.account_id and apis.id = api_directory.api_id
    where api_directory.api_id = any(${sql.array([...apiIds], "text")})
  `);
  return new Map(rows.map(({ id, name }) => [id, name]));
}
