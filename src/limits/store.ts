import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const overrideRow = z.object({
  account_id: z.string(),
  subject_id: z.string(),
  rate_class: z.enum(["console", "v1", "admin", "monitor"]),
  per_minute: z.int(),
  burst: z.int(),
  updated_at: z.number(),
});

/** A rate that one person or key has instead of a class's. */
export type OverrideRow = z.infer<typeof overrideRow>;

/** Whose override it is, and of which class. */
export interface OverrideKey {
  accountId: string;
  subjectId: string;
  rateClass: OverrideRow["rate_class"];
}

const overrideColumns = sql.fragment`
  account_id, subject_id, rate_class, per_minute, burst, updated_at
`;

/** List overrides after the given one (null: from the first), of one account or (empty) of all. */
export function listOverrides(
  db: Queries,
  { accountId, after, limit }: { accountId: string; after: OverrideKey | null; limit: number },
): Promise<readonly OverrideRow[]> {
  return db.any(sql.type(overrideRow)`
    select ${overrideColumns} from rate_overrides
    where (${accountId} = '' or account_id = ${accountId})
      and (account_id, subject_id, rate_class)
        > (${after?.accountId ?? ""}, ${after?.subjectId ?? ""}, ${after?.rateClass ?? ""})
    order by account_id, subject_id, rate_class limit ${limit}
  `);
}

/** List all overrides of the given people and keys. */
export function listOverridesOf(
  db: Queries,
  subjects: readonly Pick<OverrideKey, "accountId" | "subjectId">[],
): Promise<readonly OverrideRow[]> {
  const rows = subjects.map(({ accountId, subjectId }) => [accountId, subjectId]);
  return db.any(sql.type(overrideRow)`
    select ${overrideColumns} from rate_overrides
    where (account_id, subject_id) in (select * from ${sql.unnest(rows, ["text", "text"])})
  `);
}

/** Insert an override, or change the one that is there. */
export function upsertOverride(
  tx: Tx,
  override: OverrideKey & { perMinute: number; burst: number; now: Date },
): Promise<OverrideRow> {
  return tx.one(sql.type(overrideRow)`
    insert into rate_overrides (account_id, subject_id, rate_class, per_minute, burst, updated_at)
    values (
      ${override.accountId}, ${override.subjectId}, ${override.rateClass}, ${override.perMinute},
      ${override.burst}, ${override.now.toISOString()}
    )
    on conflict (account_id, subject_id, rate_class) do update set
      per_minute = excluded.per_minute, burst = excluded.burst, updated_at = excluded.updated_at
    returning ${overrideColumns}
  `);
}

/** Delete an override. False when there is none. */
export async function deleteOverride(tx: Tx, key: OverrideKey): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(nothing)`
    delete from rate_overrides
    where account_id = ${key.accountId} and subject_id = ${key.subjectId}
      and rate_class = ${key.rateClass}
    returning account_id
  `);
  return row !== null;
}
