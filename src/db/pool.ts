import { createPgDriverFactory } from "@slonik/pg-driver";
import {
  type CommonQueryMethods,
  createPool,
  type DatabasePool,
  type DatabaseTransactionConnection,
  type Interceptor,
  type QueryResultRow,
  SchemaValidationError,
  sql,
} from "slonik";
import { z } from "zod";
import { createSemaphore, type Semaphore } from "../lib/semaphore.ts";
import { DatabaseConnectError } from "./connect-error.ts";
import { createLane } from "./lane.ts";
import { createTimedDriver } from "./timed-driver.ts";

/** What a store function takes: a transaction, whoever opened it. */
export type Tx = DatabaseTransactionConnection;

/** What a read-only store function may also take. */
export type Queries = Pick<CommonQueryMethods, "any" | "maybeOne" | "one" | "query">;

/** The roles that the server uses the database in. Both are subject to row-level security. */
export type DatabaseRole = "callora_app" | "callora_worker";

/** The row schema of a statement that returns nothing. */
export const nothing = z.object({});

/** A pool whose every use waits a bounded time. */
export interface Pool {
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /** Run one statement, which commits by itself: no other round trip comes before its commit. */
  statement<T>(work: (db: Queries) => Promise<T>): Promise<T>;
  end(): Promise<void>;
}

const statementTimeoutMs = 10_000;
/** So much longer than a statement may take a database that is there needs to say that it took too long. */
const silenceMs = 2_000;
const idleInTransactionTimeoutMs = 15_000;
const connectTimeoutMs = 3_000;
const acquireTimeoutMs = 2_000;
const waitersMax = 1_000;

/**
 * Open a pool whose connections act as the role. Throws when they would not be subject to row-level security.
 *
 * slonik itself lets callers wait for ever for a connection; the semaphore in front of it does not.
 */
export async function openPool({
  url,
  role,
  connectionsMax,
  statementMs = statementTimeoutMs,
}: {
  url: string;
  role: DatabaseRole;
  connectionsMax: number;
  /** How long a statement may take. Unset: 10 s. */
  statementMs?: number;
}): Promise<Pool> {
  const pool = await createPool(withRole(url, role), {
    driverFactory: createTimedDriver(createPgDriverFactory(), {
      answerMs: statementMs + silenceMs,
    }),
    interceptors: [createResultParser()],
    maxPoolSize: connectionsMax,
    connectionTimeout: connectTimeoutMs,
    connectionRetryLimit: 1,
    statementTimeout: statementMs,
    idleInTransactionSessionTimeout: idleInTransactionTimeoutMs,
    idleTimeout: 60_000,
    queryRetryLimit: 0,
    // Sessions are only changed by `set local`. RESET ALL leaves the role of the connection as it is; DISCARD ALL
    // would return it to the login role, and costs three times as much.
    resetConnection: async ({ query }) => {
      await query("reset all");
    },
  });
  // A connection that breaks while idle is replaced; nobody waits for it, so there is nobody to tell.
  pool.on("error", () => {});
  const gate = createSemaphore({
    permits: connectionsMax,
    waitersMax,
    waitMs: acquireTimeoutMs,
  });
  try {
    const row = await findSessionRole(pool).catch((cause) => {
      throw new DatabaseConnectError(url, cause);
    });
    refusePower(row, role);
  } catch (error) {
    await pool.end();
    throw error;
  }
  return bounded(pool, gate);
}

/**
 * What runs in the lane are few statements, again and again: to plan each time takes longer than to run them, and where
 * the tables are new PostgreSQL guesses that it is worth it. It holds until the connection is given back.
 */
const planOnce = sql.type(nothing)`set plan_cache_mode = force_generic_plan`;

function bounded(pool: DatabasePool, gate: Semaphore): Pool {
  const lane = createLane((work) =>
    gate.run(() =>
      pool.connect(async (db) => {
        await db.query(planOnce);
        await work(db);
      }),
    ),
  );
  return {
    transaction: (work) => gate.run(() => pool.transaction(work)),
    statement: (work) => lane.run(work) ?? gate.run(() => work(pool)),
    async end() {
      await lane.end();
      await pool.end();
    },
  };
}

/** The address with the role set from the first moment of each session, unless it logs in as the role. */
export function withRole(url: string, role: DatabaseRole): string {
  const parsed = new URL(url);
  if (decodeURIComponent(parsed.username) !== role) {
    parsed.searchParams.set("options", `-c role=${role}`);
  }
  return parsed.href;
}

const roleRow = z.object({ name: z.string(), powerful: z.boolean() });

function findSessionRole(pool: DatabasePool): Promise<z.infer<typeof roleRow>> {
  return pool.one(sql.type(roleRow)`
    select current_user::text as name, rolsuper or rolbypassrls as powerful
    from pg_roles where rolname = current_user
  `);
}

function refusePower({ name, powerful }: z.infer<typeof roleRow>, role: DatabaseRole): void {
  if (name !== role || powerful) {
    throw new Error(
      `Cannot use the database as "${name}": it must act as ${role}, without superuser or bypassrls`,
    );
  }
}

/** Parse every row with the schema that its query names. */
function createResultParser(): Interceptor {
  return {
    name: "result-parser",
    transformRow: ({ resultParser }, query, row) => {
      if (resultParser === undefined) {
        return row;
      }
      const result = resultParser["~standard"].validate(row);
      if (result instanceof Promise) {
        throw new Error("Cannot parse a row: its schema is asynchronous");
      }
      if (result.issues) {
        throw new SchemaValidationError(query, row, result.issues);
      }
      return result.value as QueryResultRow;
    },
  };
}
