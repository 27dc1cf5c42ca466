import assert from "node:assert";
import { sql } from "slonik";
import { isId } from "../lib/id.ts";
import { nothing, type Pool, type Queries, type Tx } from "./pool.ts";

/** For whom a transaction runs, and what the audit log says of it. */
export interface Tenant {
  accountId: string;
  actor: string;
  ip: string;
  requestId: string;
  /** The audit action. Empty when nothing is audited. */
  action: string;
  audited(): void;
}

/** What a handler says of its change, for the audit log. */
export interface Audit {
  /** Name what was changed, for example `api_key:key_…`, and say more if need be. Never a secret. */
  record(resource: string, detail?: string): void;
  /** Say that a retry changed nothing. */
  unchanged(): void;
}

/** Append one audit record in the transaction. */
export type AppendAudit = (
  tx: Tx,
  record: { tenant: Tenant; resource: string; detail: string },
) => Promise<void>;

/** The database, in the two roles in which the server uses it. */
export interface Database {
  /**
   * Run a transaction that sees and changes one account's rows, and append what it says to the audit log.
   *
   * May run more than once (a conflict is retried): it must have no effect outside the database.
   */
  tenantTransaction<T>(tenant: Tenant, work: (tx: Tx, audit: Audit) => Promise<T>): Promise<T>;
  /**
   * Run a platform admin's change, which may touch any account, and append what it says to the tenant's audit log.
   *
   * May run more than once, like tenantTransaction.
   */
  platformTransaction<T>(tenant: Tenant, work: (tx: Tx, audit: Audit) => Promise<T>): Promise<T>;
  /** Read one account's rows. */
  tenantRead<T>(accountId: string, work: (tx: Tx) => Promise<T>): Promise<T>;
  /** Run a transaction that sees all accounts' rows: for look-ups before a caller is known, and for loops. */
  systemTransaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /**
   * Run one statement that sees all accounts' rows and commits by itself. Never runs more than once.
   *
   * A lock that it takes is held for its own time alone, not for that of a transaction's further round trips.
   */
  systemStatement<T>(work: (db: Queries) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

/** The database over its two pools. */
export function createDatabase({
  app,
  worker,
  appendAudit,
}: {
  app: Pool;
  worker: Pool;
  appendAudit: AppendAudit;
}): Database {
  async function audited<T>(
    tx: Tx,
    tenant: Tenant,
    work: (tx: Tx, audit: Audit) => Promise<T>,
  ): Promise<T> {
    const audit = collectAudit();
    const value = await work(tx, audit);
    assert(
      tenant.action === "" || audit.unchangedSaid || audit.records.length > 0,
      `Cannot commit ${tenant.action}: the handler named nothing for the audit log`,
    );
    for (const record of audit.records) {
      await appendAudit(tx, { tenant, ...record });
    }
    return value;
  }

  return {
    async tenantTransaction(tenant, work) {
      const result = await app.transaction(async (tx) => {
        await setAccount(tx, tenant.accountId);
        return audited(tx, tenant, work);
      });
      tenant.audited();
      return result;
    },
    async platformTransaction(tenant, work) {
      const result = await worker.transaction((tx) => audited(tx, tenant, work));
      tenant.audited();
      return result;
    },
    tenantRead: (accountId, work) =>
      app.transaction(async (tx) => {
        await setAccount(tx, accountId);
        return work(tx);
      }),
    systemTransaction: (work) => worker.transaction(work),
    systemStatement: (work) => worker.statement(work),
    async close() {
      await Promise.all([app.end(), worker.end()]);
    },
  };
}

/** Set the tenant by a statement, not by set_config(): Citus sends only statements on to its workers. */
async function setAccount(tx: Tx, accountId: string): Promise<void> {
  assert(isId("acc", accountId), "Cannot open a transaction: the tenant is not an account id");
  await tx.query(sql.type(nothing)`set local app.account = ${sql.literalValue(accountId)}`);
}

function collectAudit() {
  const audit = {
    records: [] as { resource: string; detail: string }[],
    unchangedSaid: false,
    record(resource: string, detail = "") {
      audit.records.push({ resource, detail });
    },
    unchanged() {
      audit.unchangedSaid = true;
    },
  };
  return audit;
}
