import type { Tx } from "../db/pool.ts";
import { type KeptEvent, readRange } from "./meter-events.ts";
import { addReading, allGroupsKey, groupKeyOf, noSums, otherGroupsKey } from "./meter-fold.ts";
import {
  compileMeter,
  type Meter,
  type MeteredEvent,
  type OpenEvent,
  openEvent,
  type Reading,
} from "./meter-reading.ts";
import {
  type CountedMeter,
  definitionOf,
  holdCountedMeters,
  listCountedMeters,
} from "./meter-store.ts";
import {
  addSums,
  admitGroups,
  groupId,
  holdSums,
  listGroups,
  type MeterGroup,
  type MeterSum,
  replaceSums,
} from "./meter-sums.ts";
import { quarterOf } from "./window.ts";

const quarterMs = 15 * 60_000;

/** What meters need of an applied event. */
export interface Metered {
  place: { position: bigint; ordinal: number };
  entry: {
    account: string;
    price: { apiId: string; developerId: string };
    endpoint: string;
    /** As the sender said it: 0 is 200. */
    status: number;
    keyId: string | null;
    data: string;
    timeMicros: bigint;
    mode: "live" | "test";
  };
}

/** What meters need of a correction: an event that is taken back. */
export interface Voided {
  target: Metered;
  isVoid: boolean;
}

/** A meter whose paths are compiled. */
export interface ReadyMeter {
  row: CountedMeter;
  read: Meter;
}

/** An event that a meter counts, and what it reads of it. */
interface Count {
  meter: ReadyMeter;
  mode: "live" | "test";
  event: MeteredEvent;
  reading: Reading;
}

/**
 * Add applied events to the sums of the meters that see them, and count the sums of voided ones anew.
 *
 * Part of the projector's transaction, after the events and the corrections are written.
 */
export async function addMeters(
  tx: Tx,
  { applied, voided }: { applied: readonly Metered[]; voided: readonly Voided[] },
): Promise<void> {
  const targets = voided.filter(({ isVoid }) => isVoid).map(({ target }) => target);
  const accounts = [...applied, ...targets].flatMap(({ entry }) => [
    entry.account,
    entry.price.developerId,
  ]);
  const list = targets.length === 0 ? listCountedMeters : holdCountedMeters;
  const meters = byOwner(await list(tx, [...new Set(accounts)]));
  if (meters.size === 0) {
    return;
  }
  const gone = new Set(targets.map(({ place }) => placeText(place)));
  const kept = applied.filter(({ place }) => !gone.has(placeText(place)));
  await addCounts(
    tx,
    kept.flatMap((event) => countsOf(meters, event)),
  );
  await recount(
    tx,
    targets.flatMap((event) => countsOf(meters, event)),
    gone,
  );
}

/** Compile the paths of a meter. */
export function readyMeter(row: CountedMeter): ReadyMeter {
  return { row, read: compileMeter(definitionOf(row)) };
}

/** Add events of one meter that were there before it. */
export async function addKept(
  tx: Tx,
  meter: ReadyMeter,
  events: readonly KeptEvent[],
): Promise<void> {
  await addCounts(
    tx,
    events.flatMap((event) => countOf(meter, { mode: event.mode, open: openEvent(event) })),
  );
}

/** By account and side. */
function byOwner(rows: readonly CountedMeter[]): ReadonlyMap<string, ReadyMeter[]> {
  const meters = new Map<string, ReadyMeter[]>();
  for (const row of rows) {
    const key = `${row.side} ${row.account_id}`;
    meters.set(key, [...(meters.get(key) ?? []), readyMeter(row)]);
  }
  return meters;
}

function countsOf(meters: ReadonlyMap<string, ReadyMeter[]>, { place, entry }: Metered): Count[] {
  const { account, price, mode, endpoint, keyId, data, timeMicros } = entry;
  // What developers see of others' use is live.
  const served = mode === "live" ? (meters.get(`developer ${price.developerId}`) ?? []) : [];
  const seeing = [...(meters.get(`consumer ${account}`) ?? []), ...served];
  const { apiId } = price;
  const statusCode = entry.status === 0 ? 200 : entry.status;
  const event = { apiId, endpoint, statusCode, keyId, data, timeMicros, ...place };
  const open = openEvent(event);
  return seeing.flatMap((meter) => countOf(meter, { mode, open }));
}

function countOf(meter: ReadyMeter, of: { mode: "live" | "test"; open: OpenEvent }): Count[] {
  const reading = meter.read(of.open);
  return reading === null ? [] : [{ meter, mode: of.mode, event: of.open.event, reading }];
}

async function addCounts(tx: Tx, counts: readonly Count[]): Promise<void> {
  if (counts.length === 0) {
    return;
  }
  const groups = new Map<string, MeterGroup>();
  for (const { meter, reading } of counts) {
    const group = groupOf(meter, reading);
    if (group !== null) {
      groups.set(groupId(group), group);
    }
  }
  const admitted = await admitGroups(tx, [...groups.values()]);
  const sums = new Map<string, MeterSum>();
  for (const count of counts) {
    for (const key of keysOf(count, admitted)) {
      addTo(sumAt(sums, key), count);
    }
  }
  await addSums(tx, [...sums.values()]);
}

/**
 * Count sums anew from the events: without those that are voided, and, of a meter that is being built, without those
 * that it has yet to count.
 */
async function recount(tx: Tx, targets: readonly Count[], gone: ReadonlySet<string>) {
  for (const { meter, ranges } of rangesOf(targets)) {
    const { account_id: accountId, id: meterId, side, groups } = meter.row;
    const known = groups.length === 0 ? [] : await listGroups(tx, { accountId, meterId });
    const admitted = new Set(
      known.map(({ group_key: groupKey }) => groupId({ accountId, meterId, groupKey })),
    );
    for (const { mode, bucketMs, counts } of ranges) {
      const sums = new Map<string, MeterSum>();
      for (const key of counts.flatMap((count) => keysOf(count, admitted))) {
        sumAt(sums, key);
      }
      await holdSums(tx, [...sums.values()]);
      const range = { accountId, side, mode, startMs: bucketMs, endMs: bucketMs + quarterMs };
      for await (const events of readRange(tx, range)) {
        for (const event of events.filter((one) => isCounted(meter.row, one, gone))) {
          for (const count of countOf(meter, { mode, open: openEvent(event) })) {
            addWhere(sums, count, admitted);
          }
        }
      }
      await replaceSums(tx, [...sums.values()]);
    }
  }
}

function isCounted(row: CountedMeter, event: KeptEvent, gone: ReadonlySet<string>): boolean {
  if (event.isVoided || gone.has(placeText(event))) {
    return false;
  }
  const start = row.start_positions[event.shard] ?? 0n;
  return row.state === "active" || event.position > start || event.position <= row.built_to;
}

function addWhere(sums: Map<string, MeterSum>, count: Count, admitted: ReadonlySet<string>) {
  for (const key of keysOf(count, admitted)) {
    const sum = sums.get(keyText(key));
    if (sum !== undefined) {
      addTo(sum, count);
    }
  }
}

/** The quarters of an hour in which a meter counted events, with these. */
function rangesOf(counts: readonly Count[]) {
  const meters = new Map<string, { meter: ReadyMeter; ranges: Map<string, Quarter> }>();
  for (const count of counts) {
    const { meter, mode, event } = count;
    const { account_id: accountId, id } = meter.row;
    const ofMeter = meters.get(`${accountId} ${id}`) ?? { meter, ranges: new Map() };
    meters.set(`${accountId} ${id}`, ofMeter);
    const bucketMs = bucketOf(event);
    const quarter = ofMeter.ranges.get(`${mode} ${bucketMs}`) ?? { mode, bucketMs, counts: [] };
    ofMeter.ranges.set(`${mode} ${bucketMs}`, quarter);
    quarter.counts.push(count);
  }
  return [...meters.values()].map(({ meter, ranges }) => ({
    meter,
    ranges: [...ranges.values()],
  }));
}

interface Quarter {
  mode: "live" | "test";
  bucketMs: number;
  counts: Count[];
}

function groupOf({ row }: ReadyMeter, { groups: texts }: Reading): MeterGroup | null {
  const { account_id: accountId, id: meterId } = row;
  return texts.length === 0 ? null : { accountId, meterId, groupKey: groupKeyOf(texts), texts };
}

/** The sums that an event counts in: those of all groups, and those of its own. */
function keysOf({ meter, mode, event, reading }: Count, admitted: ReadonlySet<string>) {
  const { account_id: accountId, id: meterId } = meter.row;
  const all = { accountId, meterId, mode, groupKey: allGroupsKey, bucketMs: bucketOf(event) };
  const group = groupOf(meter, reading);
  if (group === null) {
    return [all];
  }
  const groupKey = admitted.has(groupId(group)) ? group.groupKey : otherGroupsKey;
  return [all, { ...all, groupKey }];
}

function sumAt(sums: Map<string, MeterSum>, key: Omit<MeterSum, "sums">): MeterSum {
  const text = keyText(key);
  const sum = sums.get(text) ?? { ...key, sums: noSums() };
  sums.set(text, sum);
  return sum;
}

function addTo({ sums }: MeterSum, { meter, event, reading }: Count): void {
  addReading(sums, reading, { aggregation: meter.row.aggregation, event });
}

function keyText({ accountId, meterId, mode, groupKey, bucketMs }: Omit<MeterSum, "sums">): string {
  return `${accountId} ${meterId} ${mode} ${bucketMs} ${groupKey}`;
}

function bucketOf({ timeMicros }: MeteredEvent): number {
  return quarterOf(Number(timeMicros / 1_000n));
}

function placeText({ position, ordinal }: { position: bigint; ordinal: number }): string {
  return `${position}:${ordinal}`;
}
