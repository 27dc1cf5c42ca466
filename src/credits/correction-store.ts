import { sql } from "slonik";
import { z } from "zod";
import { type Column, unnestColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { grantColumns, grantRow } from "./grant-store.ts";

/** An event, and the part of its account's charges that credit paid: [fromNanos, toNanos) on the line of all of them. */
export interface PaidEvent {
  accountId: string;
  mode: Mode;
  position: bigint;
  ordinal: number;
  fromNanos: bigint;
  toNanos: bigint;
}

const burnedRow = grantRow.extend({ event_nanos: z.bigint() });

/** Lock the grants that an event and its corrections burned, the last to burn first, with what it burned of each. */
export function lockBurnedGrants(
  tx: Tx,
  { accountId, mode, position, ordinal, fromNanos, toNanos }: PaidEvent,
): Promise<readonly z.infer<typeof burnedRow>[]> {
  const ofAccount = sql.fragment`account_id = ${accountId} and mode = ${mode}`;
  return tx.any(sql.type(burnedRow)`
    with part as (
      select grant_id, least(to_nanos, ${toNanos}) - greatest(from_nanos, ${fromNanos}) as nanos
      from grant_burns
      where ${ofAccount} and to_nanos > ${fromNanos} and from_nanos < ${toNanos}
        and from_nanos >= coalesce((
          select max(from_nanos) from grant_burns where ${ofAccount} and from_nanos <= ${fromNanos}
        ), 0)
      union all
      select grant_id, burned_nanos from grant_corrections
      where account_id = ${accountId} and event_position = ${position}
        and event_ordinal = ${ordinal}
    ), burned as (
      select grant_id, sum(nanos)::int8 as event_nanos from part
      group by grant_id having sum(nanos) > 0
    )
    select ${grantColumns}, event_nanos
    from credit_grants join burned on grant_id = id
    where ${ofAccount}
    order by priority desc, expire_at desc, created_at desc, id desc
    for no key update of credit_grants
  `);
}

/** What a correction burned of a grant. Negative: what it gave back. */
export interface CorrectedBurn {
  grantId: string;
  nanos: bigint;
}

const columns: Column<CorrectedBurn>[] = [
  { type: "text", of: ({ grantId }) => grantId },
  { type: "int8", of: ({ nanos }) => nanos },
];

/** Note what a correction of an event burned, and what it gave back. */
export async function insertGrantCorrections(
  tx: Tx,
  { accountId, position, ordinal }: PaidEvent,
  { id, burns }: { id: string; burns: readonly CorrectedBurn[] },
): Promise<void> {
  if (burns.length === 0) {
    return;
  }
  await tx.query(sql.type(nothing)`
    insert into grant_corrections (
      account_id, correction_id, grant_id, event_position, event_ordinal, burned_nanos
    )
    select ${accountId}, ${id}, grant_id, ${position}::int8, ${ordinal}::int4, nanos
    from ${unnestColumns(burns, columns)} as burn (grant_id, nanos)
  `);
}
