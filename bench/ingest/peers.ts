import { chmod, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import pg from "pg";
import type { UsageEvent } from "../../gen/callora/metering/v1/metering_service_pb.ts";

const columns = "account_id, key, source, id, api_id, endpoint, occurred_at";
const unnestBatch = 5_000;

/** The plain table that others keep events in, with the one index that it needs. */
export async function makePeerTable(client: pg.Client): Promise<void> {
  await client.query(
    `create table if not exists peer_events (
       account_id text not null, key text collate "C" not null, source text not null, id text not null,
       api_id text not null, endpoint text not null, occurred_at timestamptz not null,
       unique (account_id, key))`,
  );
}

/** How long one COPY of the events takes, from a file that the database reads itself. Returns seconds. */
export async function copyEvents(
  client: pg.Client,
  events: readonly UsageEvent[],
  directory: string,
): Promise<number> {
  const file = join(directory, "events.copy");
  await writeFile(file, events.map((event) => `${toRow(event).join("\t")}\n`).join(""));
  await chmod(file, 0o644);
  const begin = performance.now();
  await client.query(`copy peer_events (${columns}) from '${file}'`);
  const seconds = (performance.now() - begin) / 1000;
  await rm(file);
  return seconds;
}

/** How long it takes to insert the events, 5,000 a commit, when nothing else is done. Returns seconds. */
export async function insertEvents(
  client: pg.Client,
  events: readonly UsageEvent[],
): Promise<number> {
  const batches = Array.from({ length: Math.ceil(events.length / unnestBatch) }, (_, index) => {
    const rows = events.slice(index * unnestBatch, (index + 1) * unnestBatch).map(toRow);
    return columns.split(", ").map((_name, column) => rows.map((row) => row[column]));
  });
  const begin = performance.now();
  for (const values of batches) {
    await client.query(
      `insert into peer_events (${columns})
       select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
         $7::timestamptz[])
       on conflict do nothing`,
      values,
    );
  }
  return (performance.now() - begin) / 1000;
}

/** What becomes of events that are inserted and committed one by one, over so many connections. */
export async function insertSingles(
  connectionString: string,
  events: readonly UsageEvent[],
  connections: number,
): Promise<{ seconds: number; p99Ms: number }> {
  const clients = Array.from({ length: connections }, () => new pg.Client({ connectionString }));
  await Promise.all(clients.map((client) => client.connect()));
  const latencies: number[] = [];
  const rows = events.map(toRow);
  let next = 0;
  const begin = performance.now();
  await Promise.all(
    clients.map(async (client) => {
      for (let row = rows[next++]; row !== undefined; row = rows[next++]) {
        const sent = performance.now();
        await client.query({
          name: "single",
          text: `insert into peer_events (${columns}) values ($1, $2, $3, $4, $5, $6, $7)
                 on conflict do nothing`,
          values: row,
        });
        latencies.push(performance.now() - sent);
      }
    }),
  );
  const seconds = (performance.now() - begin) / 1000;
  await Promise.all(clients.map((client) => client.end()));
  const sorted = Float64Array.from(latencies).sort();
  return { seconds, p99Ms: sorted[Math.floor(sorted.length * 0.99)] ?? Number.NaN };
}

function toRow({ accountId, source, id, apiId, endpoint, time }: UsageEvent): string[] {
  const at = time === undefined ? "" : timestampDate(time).toISOString();
  return [accountId, `${source.length}:${source}${id}`, source, id, apiId, endpoint, at];
}
