import { sql } from "slonik";
import { nothing, type Tx } from "../db/pool.ts";
import type { KeptEvent } from "./meter-events.ts";
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
  findGroups,
  groupId,
  listGroups,
  type MeterGroup,
  type MeterSum,
} from "./meter-sums.ts";
import { findRemovedMs, takeFromSums } from "./meter-void-store.ts";
import { quarterOf } from "./window.ts";

/** Readings between which a transaction of a meter's work shows that it is alive. */
const readingsMax = 5_000;

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
  target: Metered & { shard: number };
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
  /** Null: the meter has no groups. */
  group: MeterGroup | null;
}

/**
 * Add applied events to the sums of the meters that see them, and take voided ones from theirs.
 *
 * Part of the projector's transaction, after the events and the corrections are written. It reads no events: where the
 * least, greatest, latest or a different value goes, a loop finds what takes its place.
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
  await addCounts(tx, await readCounts(tx, meters, applied));
  await takeBack(tx, meters, targets);
}

/** The counts of events, however many meters see them: nobody waits long for the process or for the transaction. */
async function readCounts(
  tx: Tx,
  meters: ReadonlyMap<string, ReadyMeter[]>,
  applied: readonly Metered[],
): Promise<Count[]> {
  const counts: Count[] = [];
  let readings = 0;
  for (const event of applied) {
    const seeing = seeingOf(meters, event);
    readings += seeing.length;
    if (readings > readingsMax) {
      readings = 0;
      // The database ends the session of a process that says nothing for long.
      await tx.query(sql.type(nothing)`select`);
    }
    counts.push(...countsOf(seeing, event));
  }
  return counts;
}

/** Take events that meters have counted from their sums. */
async function takeBack(
  tx: Tx,
  meters: ReadonlyMap<string, ReadyMeter[]>,
  targets: readonly Voided["target"][],
): Promise<void> {
  const counts = targets.flatMap((target) => {
    const seeing = seeingOf(meters, target).filter(({ row }) => isCounted(row, target));
    return countsOf(seeing, target);
  });
  if (counts.length === 0) {
    return;
  }
  const groups = counts.flatMap(({ group }) => (group === null ? [] : [group]));
  const sums = sumsOf(counts, await findGroups(tx, groups));
  await takeFromSums(tx, sums, await findRemovedMs(tx));
}

/** Whether a meter has counted an event: the projector, or the loop that builds it. */
function isCounted(row: CountedMeter, { place, shard }: Voided["target"]): boolean {
  const start = row.start_positions[shard] ?? 0n;
  return row.state === "active" || place.position > start || place.position <= row.built_to;
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

/** The meters that see an event. */
function seeingOf(
  meters: ReadonlyMap<string, ReadyMeter[]>,
  { entry: { account, price, mode } }: Metered,
): ReadyMeter[] {
  // What developers see of others' use is live.
  const served = mode === "live" ? (meters.get(`developer ${price.developerId}`) ?? []) : [];
  return [...(meters.get(`consumer ${account}`) ?? []), ...served];
}

function countsOf(seeing: readonly ReadyMeter[], { place, entry }: Metered): Count[] {
  const { price, mode, endpoint, keyId, data, timeMicros } = entry;
  const { apiId } = price;
  const statusCode = entry.status === 0 ? 200 : entry.status;
  const event = { apiId, endpoint, statusCode, keyId, data, timeMicros, ...place };
  const open = openEvent(event);
  return seeing.flatMap((meter) => countOf(meter, { mode, open }));
}

function countOf(meter: ReadyMeter, of: { mode: "live" | "test"; open: OpenEvent }): Count[] {
  const reading = meter.read(of.open);
  return reading === null
    ? []
    : [{ meter, mode: of.mode, event: of.open.event, reading, group: groupOf(meter, reading) }];
}

async function addCounts(tx: Tx, counts: readonly Count[]): Promise<void> {
  if (counts.length === 0) {
    return;
  }
  const groups = new Map<string, MeterGroup>();
  for (const { group } of counts) {
    if (group !== null) {
      groups.set(groupId(group), group);
    }
  }
  await addSums(tx, sumsOf(counts, await admitGroups(tx, [...groups.values()])));
}

/** What kept events come to in the sums of a meter. */
export async function sumKept(
  tx: Tx,
  meter: ReadyMeter,
  events: readonly KeptEvent[],
): Promise<MeterSum[]> {
  const { account_id: accountId, id: meterId, groups } = meter.row;
  const known = groups.length === 0 ? [] : await listGroups(tx, { accountId, meterId });
  const admitted = known.map(({ group_key: groupKey }) =>
    groupId({ accountId, meterId, groupKey }),
  );
  const counts = events.flatMap((event) =>
    countOf(meter, { mode: event.mode, open: openEvent(event) }),
  );
  return sumsOf(counts, new Set(admitted));
}

function sumsOf(counts: readonly Count[], admitted: ReadonlySet<string>): MeterSum[] {
  const sums = new Map<string, MeterSum>();
  for (const count of counts) {
    for (const key of keysOf(count, admitted)) {
      addTo(sumAt(sums, key), count);
    }
  }
  return [...sums.values()];
}

function groupOf({ row }: ReadyMeter, { groups: texts }: Reading): MeterGroup | null {
  const { account_id: accountId, id: meterId } = row;
  return texts.length === 0 ? null : { accountId, meterId, groupKey: groupKeyOf(texts), texts };
}

/** The sums that an event counts in: those of all groups, and those of its own. */
function keysOf({ meter, mode, event, group }: Count, admitted: ReadonlySet<string>) {
  const { account_id: accountId, id: meterId } = meter.row;
  const all = { accountId, meterId, mode, groupKey: allGroupsKey, bucketMs: bucketOf(event) };
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
