import { sql } from "slonik";
import { z } from "zod";
import type { Connection } from "./listener.ts";
import { nothing, type Tx } from "./pool.ts";

const epochRow = z.object({ epoch: z.bigint() });
const laggardRow = z.object({ id: z.string(), beat: z.bigint(), acknowledged: z.bigint() });
const readRow = z.object({ epoch: z.string().transform(BigInt) });

/** A process that has not yet said that it forgot everything up to some epoch. */
export type Laggard = z.infer<typeof laggardRow>;

/** Count up the epoch. Whoever else announces waits until this transaction ends. */
export async function incrementEpoch(tx: Tx): Promise<bigint> {
  const { epoch } = await tx.one(
    sql.type(epochRow)`update trust_epoch set epoch = epoch + 1 returning epoch`,
  );
  return epoch;
}

/** Tell whoever listens, when the transaction commits. */
export async function notify(tx: Tx, channel: string, payload: string): Promise<void> {
  await tx.query(sql.type(z.unknown())`select pg_notify(${channel}, ${payload})`);
}

/** The processes that have not acknowledged the epoch, those furthest behind first. */
export async function listLaggards(tx: Tx, epoch: bigint): Promise<readonly Laggard[]> {
  return tx.any(sql.type(laggardRow)`
    select id, beat, acknowledged from processes where acknowledged < ${epoch}
    order by acknowledged limit 1000
  `);
}

/** Delete a process, unless its heart has beaten since. */
export async function deleteUnmoved(tx: Tx, { id, beat }: Laggard): Promise<void> {
  await tx.query(sql.type(nothing)`delete from processes where id = ${id} and beat = ${beat}`);
}

// What follows goes over the process's own connection, which the pools know nothing of.

/** Enter a process that remembers nothing. Returns the epoch up to which that makes it up to date. */
export async function insertProcess(
  connection: Connection,
  { id, leaseMs }: { id: string; leaseMs: number },
): Promise<bigint> {
  const [row] = await connection.query(
    `insert into processes (id, acknowledged, lease_end)
     select $1, epoch, clock_timestamp() + $2 * interval '1 millisecond' from trust_epoch
     on conflict (id) do update set
       acknowledged = excluded.acknowledged,
       lease_end = excluded.lease_end,
       beat = processes.beat + 1
     returning acknowledged as epoch`,
    [id, leaseMs],
  );
  return readRow.parse(row).epoch;
}

/** Beat, and acknowledge an epoch. Returns the current epoch; null: the process was deleted. */
export async function updateProcess(
  connection: Connection,
  { id, acknowledged, leaseMs }: { id: string; acknowledged: bigint; leaseMs: number },
): Promise<bigint | null> {
  const [row] = await connection.query(
    `update processes set
       acknowledged = greatest(acknowledged, $2::bigint),
       lease_end = clock_timestamp() + $3 * interval '1 millisecond',
       beat = beat + 1
     where id = $1
     returning (select epoch from trust_epoch) as epoch`,
    [id, String(acknowledged), leaseMs],
  );
  return row === undefined ? null : readRow.parse(row).epoch;
}

/** Delete a process that answers no more from memory. */
export async function deleteProcess(connection: Connection, id: string): Promise<void> {
  await connection.query("delete from processes where id = $1", [id]);
}

/** Delete processes whose lease ended long ago by the database's clock, whatever steps that clock made. */
export async function deleteDeadProcesses(connection: Connection): Promise<void> {
  await connection.query(
    "delete from processes where lease_end < clock_timestamp() - interval '1 minute'",
    [],
  );
}
