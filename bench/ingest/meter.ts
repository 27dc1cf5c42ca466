import { randomUUID } from "node:crypto";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Client } from "@connectrpc/connect";
import {
  Aggregation,
  MeterService,
  WindowSize,
} from "../../gen/callora/metering/v1/meter_service_pb.ts";
import { createUser } from "../../src/accounts/users.ts";
import { openDatabase } from "../../src/server.ts";
import { clientOf } from "../../test/support/process.ts";
import { makeToken } from "../../test/support/tokens.ts";
import { type Figure, median, round } from "../figure.ts";
import type { World } from "./world.ts";

const zone = "America/New_York";
/** Ninety days of the zone, between which its clocks change. */
const [begin, end] = ["2026-08-20T04:00:00Z", "2026-11-18T05:00:00Z"];
/** Fewer than a person may ask in a minute. */
const queries = 60;

interface Asked {
  accountId: string;
  token: string;
}

/** How long a meter takes to sum ninety days of one account by day, beside the same from the events themselves. */
export async function measureMeter(world: World, events: number): Promise<Figure[]> {
  const asked = await makePerson(world);
  await fillEvents(world, asked, events);
  const meters = clientOf(MeterService, world.url, asked.token);
  const { meter } = await meters.createMeter({
    slug: "bench",
    aggregation: Aggregation.SUM,
    valuePath: "$.amount",
  });
  const meterId = meter?.id ?? "";
  await fillRollups(world, asked, meterId);
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let done = 0; done < queries; done++) {
    const [answer, ourMs] = await timed(() => askMeter(meters, meterId));
    ours.push(ourMs);
    // Each takes seconds.
    if (done % 20 === 0) {
      const [expected, theirMs] = await timed(() => askEvents(world, asked));
      theirs.push(theirMs);
      if (JSON.stringify(answer) !== JSON.stringify(expected)) {
        throw new Error("Cannot measure: the meter and the events do not agree");
      }
    }
  }
  const figure = {
    name: `a meter by day in ${zone}, 90 days of ${events} events of one account, p95`,
    value: round(ours.toSorted((a, b) => a - b)[Math.floor(queries * 0.95)] ?? Number.NaN),
    unit: "ms",
    peer: "the raw events with a covering index",
    peerValue: round(median(theirs)),
    n: queries,
  };
  return [
    { ...figure, bar: { of: "value", limit: "at most", at: 50 } },
    { ...figure, bar: { of: "ratio", limit: "at most", at: 0.1 } },
  ];
}

async function timed<T>(work: () => Promise<T>): Promise<[T, number]> {
  const begun = performance.now();
  const result = await work();
  return [result, performance.now() - begun];
}

async function askMeter(meters: Client<typeof MeterService>, meterId: string): Promise<string[]> {
  const { values } = await meters.queryMeter({
    meterId,
    startTime: timestampFromDate(new Date(begin)),
    endTime: timestampFromDate(new Date(end)),
    windowSize: WindowSize.DAY,
    timeZone: zone,
  });
  return values.map(({ value }) => value);
}

async function askEvents({ client }: World, { accountId }: Asked): Promise<string[]> {
  const { rows } = await client.query<{ total: string }>(
    `select trim_scale(sum(value))::text as total from peer_usage
     where account_id = $1 and occurred_at >= $2 and occurred_at < $3
     group by date_trunc('day', occurred_at, $4) order by date_trunc('day', occurred_at, $4)`,
    [accountId, begin, end, zone],
  );
  return rows.map(({ total }) => total);
}

async function makePerson({ urls }: World): Promise<Asked> {
  const db = await openDatabase(urls);
  try {
    const person = { username: `bench-${randomUUID()}`, email: "", role: "user" } as const;
    const user = await db.systemTransaction((tx) => createUser(tx, person, new Date()));
    if (user === null) {
      throw new Error("Cannot measure: the person's name is taken");
    }
    const { account_id: accountId, id: userId } = user;
    return { accountId, token: await makeToken(db, { accountId, userId }) };
  } finally {
    await db.close();
  }
}

async function fillEvents({ client }: World, { accountId }: Asked, events: number): Promise<void> {
  await client.query(
    `create table peer_usage (
       account_id text not null, id text not null, endpoint text not null,
       occurred_at timestamptz not null, value numeric not null)`,
  );
  await client.query(
    `insert into peer_usage
     select $1, 'evt-' || n, 'POST /v1/items/' || n % 7,
       $3::timestamptz + random() * ($4::timestamptz - $3::timestamptz), (n % 100000) / 1000.0
     from generate_series(1, $2::int) as n`,
    [accountId, events, begin, end],
  );
  await client.query("create index on peer_usage (account_id, occurred_at) include (value)");
  // So that the index alone can answer.
  await client.query("vacuum analyze peer_usage");
}

/** What the projector would have summed, had it applied the events. */
async function fillRollups(
  { client }: World,
  { accountId }: Asked,
  meterId: string,
): Promise<void> {
  await client.query(
    `insert into meter_rollups (
       account_id, meter_id, mode, group_key, bucket, events, skipped, total, least, greatest
     )
     select account_id, $2, 'live', '', date_bin('15 minutes', occurred_at, '2026-01-01Z'),
       count(*), 0, sum(value), min(value), max(value)
     from peer_usage where account_id = $1
     group by account_id, date_bin('15 minutes', occurred_at, '2026-01-01Z')`,
    [accountId, meterId],
  );
  await client.query("update meters set state = 'active' where id = $1", [meterId]);
  await client.query("analyze meter_rollups");
}
