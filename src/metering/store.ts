import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { type AppliedEvent, shard } from "./event.ts";

/** An event and where in the journal it stands. */
export interface Placed {
  event: AppliedEvent;
  position: bigint;
  ordinal: number;
  /** Position and ordinal in one. */
  place: string;
  /** As the journal has it. */
  raw: unknown;
}

const insertedRow = z.object({ account_id: z.string(), source: z.string(), id: z.string() });

/** Insert the events that are not there yet. Returns the places of those, by identity. */
export async function insertEvents(tx: Tx, placed: Placed[]): Promise<Map<string, string>> {
  const rows = placed.map(({ event, position }) => [
    event.account,
    event.source,
    event.id,
    event.mode,
    event.api,
    event.developer,
    event.key,
    event.endpoint,
    event.status,
    event.time,
    event.priceVersion,
    event.charged.toString(),
    event.lease,
    position.toString(),
    event.hash,
  ]);
  const inserted = await tx.any(sql.type(insertedRow)`
    insert into usage_events (
      account_id, source, id, mode, api_id, developer_account_id, key_id, endpoint, status_code,
      occurred_at, price_version, charged_nanos, lease_id, shard, position, body_hash
    )
    select account_id, source, id, mode, api_id, developer, key_id, endpoint, status,
      occurred_at, price_version, charged, lease_id, ${shard}, position, decode(hash, 'hex')
    from ${sql.unnest(rows, [
      "text",
      "text",
      "text",
      "text",
      "text",
      "text",
      "text",
      "text",
      "int4",
      "timestamptz",
      "int4",
      "int8",
      "text",
      "int8",
      "text",
    ])} as event (
      account_id, source, id, mode, api_id, developer, key_id, endpoint, status,
      occurred_at, price_version, charged, lease_id, position, hash
    )
    on conflict (account_id, source, id) do nothing
    returning account_id, source, id
  `);
  const places = new Map(
    placed.map(({ event, place }) => [
      JSON.stringify([event.account, event.source, event.id]),
      place,
    ]),
  );
  return new Map(
    inserted.map((row) => {
      const key = JSON.stringify([row.account_id, row.source, row.id]);
      return [key, places.get(key) ?? ""];
    }),
  );
}

const storedRow = z.object({ ordinal: z.number(), same: z.boolean() });

/** Count events that came again: the same body is a duplicate, another one a conflict, which is kept. */
export async function markRepeats(tx: Tx, repeats: Placed[]): Promise<void> {
  if (repeats.length === 0) {
    return;
  }
  const rows = repeats.map(({ event }, index) => [
    index,
    event.account,
    event.source,
    event.id,
    event.hash,
  ]);
  const compared = await tx.any(sql.type(storedRow)`
    select repeat.ordinal, stored.body_hash = decode(repeat.hash, 'hex') as same
    from ${sql.unnest(rows, ["int4", "text", "text", "text", "text"])}
      as repeat (ordinal, account_id, source, id, hash)
    join usage_events as stored using (account_id, source, id)
  `);
  const counts = compared.map(({ ordinal, same }) => {
    const event = repeats[ordinal]?.event;
    return [event?.account ?? "", event?.source ?? "", event?.id ?? "", same ? 1 : 0, same ? 0 : 1];
  });
  await tx.query(sql.type(nothing)`
    update usage_events as stored
    set duplicates = stored.duplicates + repeat.duplicates,
      conflicts = stored.conflicts + repeat.conflicts
    from (
      select account_id, source, id, sum(same)::int4 as duplicates, sum(other)::int4 as conflicts
      from ${sql.unnest(counts, ["text", "text", "text", "int4", "int4"])}
        as counted (account_id, source, id, same, other)
      group by account_id, source, id
    ) as repeat
    where stored.account_id = repeat.account_id and stored.source = repeat.source
      and stored.id = repeat.id
  `);
  const conflicting = compared.filter(({ same }) => !same).map(({ ordinal }) => repeats[ordinal]);
  await insertQuarantine(
    tx,
    conflicting.flatMap((one) =>
      one === undefined
        ? []
        : [
            {
              position: one.position,
              ordinal: one.ordinal,
              accountId: one.event.account,
              reason: "CONFLICT",
              event: one.raw,
            },
          ],
    ),
  );
}

/** Keep events that are not applied, as they came. */
export async function insertQuarantine(
  tx: Tx,
  events: {
    position: bigint;
    ordinal: number;
    accountId: string;
    reason: "MALFORMED" | "CONFLICT";
    event: unknown;
  }[],
): Promise<void> {
  if (events.length === 0) {
    return;
  }
  const rows = events.map(({ position, ordinal, accountId, reason, event }) => [
    shard,
    position.toString(),
    ordinal,
    accountId,
    reason,
    JSON.stringify(event),
  ]);
  await tx.query(sql.type(nothing)`
    insert into usage_quarantine (shard, position, ordinal, account_id, reason, event)
    select * from ${sql.unnest(rows, ["int4", "int8", "int4", "text", "text", "jsonb"])}
  `);
}

const eventRow = z.object({
  source: z.string(),
  id: z.string(),
  account_id: z.string(),
  api_id: z.string(),
  mode: z.enum(["live", "test"]),
  endpoint: z.string(),
  status_code: z.number(),
  occurred_at: z.number(),
  price_version: z.number(),
  charged_nanos: z.bigint(),
  position: z.bigint(),
  duplicates: z.number(),
  conflicts: z.number(),
});

/** An applied event. */
export type EventRow = z.infer<typeof eventRow>;

/** Find one of the account's applied events. */
export function findEvent(
  db: Queries,
  { accountId, source, id }: { accountId: string; source: string; id: string },
): Promise<EventRow | null> {
  return db.maybeOne(sql.type(eventRow)`
    select source, id, account_id, api_id, mode, endpoint, status_code, occurred_at, price_version,
      charged_nanos, position, duplicates, conflicts
    from usage_events
    where account_id = ${accountId} and source = ${source} and id = ${id}
  `);
}
