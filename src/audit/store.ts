import { sql } from "slonik";
import { z } from "zod";
import type { Tenant } from "../db/database.ts";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const auditRow = z.object({
  account_id: z.string(),
  id: z.bigint(),
  actor_user_id: z.string(),
  action: z.string(),
  resource: z.string(),
  detail: z.string(),
  outcome: z.enum(["done", "refused"]),
  ip: z.string().nullable(),
  request_id: z.string(),
  created_at: z.number(),
});

/** A record of the audit log. */
export type AuditRow = z.infer<typeof auditRow>;

/** What to list. An empty string or undefined means any. */
export interface AuditFilter {
  actor: string;
  action: string;
  resource: string;
}

/** Append one record, in the transaction of what it records. */
export async function insertAudit(
  tx: Tx,
  {
    tenant,
    resource,
    detail = "",
    outcome = "done",
  }: {
    tenant: Omit<Tenant, "audited">;
    resource: string;
    detail?: string;
    outcome?: AuditRow["outcome"];
  },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into audit_logs (account_id, actor_user_id, action, resource, detail, outcome, ip, request_id)
    values (
      ${tenant.accountId}, ${tenant.actor}, ${tenant.action}, ${resource}, ${detail}, ${outcome},
      ${tenant.ip === "" ? null : tenant.ip}, ${tenant.requestId}
    )
  `);
}

/** Get the id of the newest record of an actor's action in an account. Throws NotFoundError without one. */
export async function getLastAuditId(
  db: Queries,
  { accountId, actor, action }: { accountId: string; actor: string; action: string },
): Promise<bigint> {
  const { id } = await db.one(sql.type(z.object({ id: z.bigint() }))`
    select id from audit_logs
    where account_id = ${accountId} and actor_user_id = ${actor} and action = ${action}
    order by created_at desc, id desc limit 1
  `);
  return id;
}

/** Whether an actor's action from a network, for example `2001:db8::/64` or an address, was done since a time. */
export async function existsAuditFrom(
  db: Queries,
  wanted: { accountId: string; actor: string; action: string; network: string; since: Date },
): Promise<boolean> {
  const { accountId, actor, action, network, since } = wanted;
  const row = await db.maybeOne(sql.type(z.object({ id: z.bigint() }))`
    select id from audit_logs
    where account_id = ${accountId} and actor_user_id = ${actor} and action = ${action}
      and outcome = 'done' and created_at > ${since.toISOString()} and ip <<= ${network}::inet
    limit 1
  `);
  return row !== null;
}

const auditColumns = sql.fragment`
  account_id, id, actor_user_id, action, resource, detail, outcome, host(ip) as ip, request_id, created_at
`;

/** List one account's records, newest first, before the given id (null: from the newest). */
export function listAudit(
  db: Queries,
  {
    accountId,
    filter,
    before,
    limit,
  }: { accountId: string; filter: AuditFilter; before: bigint | null; limit: number },
): Promise<readonly AuditRow[]> {
  return db.any(sql.type(auditRow)`
    select ${auditColumns} from audit_logs
    where account_id = ${accountId}
      and (${before}::int8 is null or id < ${before}::int8)
      and (${filter.actor} = '' or actor_user_id = ${filter.actor})
      and (${filter.action} = '' or action = ${filter.action})
      and (${filter.resource} = '' or resource = ${filter.resource})
    order by id desc limit ${limit}
  `);
}

/** List the records of all accounts, newest first, before the given id (null: from the newest). */
export function listAllAudit(
  db: Queries,
  { filter, before, limit }: { filter: AuditFilter; before: bigint | null; limit: number },
): Promise<readonly AuditRow[]> {
  return db.any(sql.type(auditRow)`
    select ${auditColumns} from audit_logs
    where (${before}::int8 is null or id < ${before}::int8)
      and (${filter.actor} = '' or actor_user_id = ${filter.actor})
      and (${filter.action} = '' or action = ${filter.action})
      and (${filter.resource} = '' or resource = ${filter.resource})
    order by id desc limit ${limit}
  `);
}
