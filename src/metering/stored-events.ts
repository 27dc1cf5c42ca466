import { sql } from "slonik";
import { z } from "zod";
import { type Column, selectColumns, unnestColumns } from "../db/columns.ts";
import type { Tx } from "../db/pool.ts";
import { beginTurn, inTurns } from "../lib/turns.ts";
import { type Candidate, identityOf, type StoredEvent } from "./decide.ts";

/** What an event is known by. */
type Identity = Pick<StoredEvent, "accountId" | "key">;

/**
 * Find the events that are stored under the identities of candidates in some months (null: ever), by identity, the
 * latest first.
 *
 * Ids that grow, as most do, are beyond all that are stored: neighbours of one source are looked for together, by the
 * first and the last of them. Only where much is stored in between is each of them looked up.
 */
export async function findStored(
  tx: Tx,
  { candidates, months }: { candidates: readonly Candidate[]; months: readonly string[] | null },
): Promise<Map<string, StoredEvent[]>> {
  const { spans, single } = await toSpans(candidates);
  const near = await findBetween(tx, spans, months);
  const crowded = spans.filter((_, index) => (near[index]?.length ?? 0) > storedOfSpanMax);
  const wanted = [...single, ...crowded.flatMap(({ identities }) => identities)];
  const found = await findEach(tx, wanted, months);
  const calm = near.filter(({ length }) => length <= storedOfSpanMax);
  const stored = [...calm.flat(), ...found];
  // The latest first.
  stored.sort((a, b) => compare(b.receivedMonth, a.receivedMonth));
  return Map.groupBy(stored, identityOf);
}

/** Neighbours of one account and source. */
interface Span {
  accountId: string;
  first: string;
  last: string;
  identities: Identity[];
}

const identitiesOfSpanMin = 4;
const identitiesOfSpanMax = 32;
/** Beyond that each of a span is looked up. */
const storedOfSpanMax = 4;

/** The identities of candidates, in the order of the index, each once: in spans, and those that have no neighbours. */
async function toSpans(
  candidates: readonly Candidate[],
): Promise<{ spans: Span[]; single: Identity[] }> {
  const all: Span[] = [];
  let source = "";
  for (const { entry, key } of await sortByIdentity(candidates)) {
    const accountId = entry.account;
    let own = all.at(-1);
    const isNeighbour = own?.accountId === accountId && source === entry.source;
    if (isNeighbour && own?.last === key) {
      continue;
    }
    if (own === undefined || !isNeighbour || own.identities.length >= identitiesOfSpanMax) {
      own = { accountId, first: key, last: key, identities: [] };
      all.push(own);
      source = entry.source;
    }
    own.last = key;
    own.identities.push({ accountId, key });
  }
  const { spans = [], single = [] } = Object.groupBy(all, (span) =>
    span.identities.length >= identitiesOfSpanMin && isOrdered(span) ? "spans" : "single",
  );
  return { spans, single: single.flatMap(({ identities }) => identities) };
}

/** Whether the database has them in the same order: it compares characters, this language halves of some of them. */
function isOrdered({ identities }: Span): boolean {
  return !identities.some(({ key }) => /[\ud800-\udfff]/.test(key));
}

const storedColumns = {
  account_id: z.string(),
  received_month: z.string(),
  key: z.string(),
  body_hash: z.instanceof(Buffer),
};
const storedRow = z.object(storedColumns);
const nearRow = z.object({ ...storedColumns, span: z.number() });

const spanColumns: Column<Span>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ first }) => first },
  { type: "text", of: ({ last }) => last },
];

/** What is stored in each span: one more than is few when it is many. */
async function findBetween(
  tx: Tx,
  spans: readonly Span[],
  months: readonly string[] | null,
): Promise<StoredEvent[][]> {
  const near: StoredEvent[][] = spans.map(() => []);
  if (spans.length === 0) {
    return near;
  }
  const rows = await tx.any(sql.type(nearRow)`
    select stored.account_id, stored.received_month::text as received_month, stored.key,
      stored.body_hash, (span.ordinal - 1)::int4 as span
    from ${unnestColumns(spans, spanColumns)}
      with ordinality as span (account_id, first, last, ordinal)
    cross join lateral (
      select account_id, received_month, key, body_hash from usage_events
      where account_id = span.account_id and key between span.first and span.last
        ${inMonths(months)}
      limit ${storedOfSpanMax + 1}
    ) as stored
  `);
  for (const row of rows) {
    near[row.span]?.push(toStored(row));
  }
  return near;
}

const identityColumns: Column<Identity>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ key }) => key },
];

/** The limit, which no identity reaches, keeps this a look-up of each: a plan that reads whole months is never better. */
async function findEach(
  tx: Tx,
  identities: readonly Identity[],
  months: readonly string[] | null,
): Promise<StoredEvent[]> {
  if (identities.length === 0) {
    return [];
  }
  const rows = await tx.any(sql.type(storedRow)`
    select stored.account_id, stored.received_month::text as received_month, stored.key,
      stored.body_hash
    from ${selectColumns(identities, identityColumns)} as wanted (account_id, key)
    cross join lateral (
      select account_id, received_month, key, body_hash from usage_events
      where account_id = wanted.account_id and key = wanted.key ${inMonths(months)}
      limit 100
    ) as stored
  `);
  return rows.map(toStored);
}

function inMonths(months: readonly string[] | null) {
  return months === null
    ? sql.fragment``
    : sql.fragment`and received_month = any(${sql.array([...months], "date")})`;
}

function toStored(row: z.infer<typeof storedRow>): StoredEvent {
  return {
    accountId: row.account_id,
    receivedMonth: row.received_month,
    key: row.key,
    hash: row.body_hash,
  };
}

/** Things in the order of the index of identities: neighbours are in its same pages. */
export async function sortByIdentity<T extends { key: string; entry: { account: string } }>(
  things: readonly T[],
): Promise<T[]> {
  const byAccount = new Map<string, T[]>();
  await inTurns(things, (thing) => {
    const { account } = thing.entry;
    const own = byAccount.get(account);
    if (own === undefined) {
      byAccount.set(account, [thing]);
    } else {
      own.push(thing);
    }
  });
  const sorted: T[] = [];
  const accounts = [...byAccount].sort(([a], [b]) => compare(a, b));
  await inTurns(
    accounts,
    ([, own]) => {
      sorted.push(...own.sort((a, b) => compare(a.key, b.key)));
    },
    beginTurn(1),
  );
  return sorted;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
