import { type FragmentSqlToken, sql, type ValueExpression } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";
import { isId } from "../lib/id.ts";
import { type AuthRow, type AuthTable, authTables } from "./auth-tables.ts";
import { hashToken } from "./token.ts";

// better-auth asks in a language of its own: rows of a model where fields are equal to or less than values. These
// functions put that into SQL, over the closed set of tables and columns in auth-tables.ts.

/** One condition; all of a list must hold. */
export interface Condition {
  field: string;
  operator: string;
  value: unknown;
}

/** Find up to `limit` rows. */
export function findAuthRows(
  db: Queries,
  table: AuthTable,
  query: { where: readonly Condition[]; limit: number; orderBy?: string; isDescending?: boolean },
): Promise<readonly AuthRow[]> {
  const { where, limit, orderBy = "id", isDescending = false } = query;
  const order = sql.fragment`${column(table, orderBy)} ${isDescending ? sql.fragment`desc` : sql.fragment`asc`}`;
  return db.any(sql.type(authTables[table])`
    select ${columns(table)} from ${sql.identifier([table])}
    where ${conditions(table, where)} order by ${order} limit ${limit}
  `);
}

/** Count rows. */
export async function countAuthRows(
  db: Queries,
  table: AuthTable,
  where: readonly Condition[],
): Promise<number> {
  const { count } = await db.one(sql.type(z.object({ count: z.bigint() }))`
    select count(*) from ${sql.identifier([table])} where ${conditions(table, where)}
  `);
  return Number(count);
}

/** Insert a row. A session gets the account of its person. */
export function insertAuthRow(
  tx: Tx,
  table: Exclude<AuthTable, "users">,
  row: Readonly<Record<string, unknown>>,
): Promise<AuthRow> {
  const entries = Object.entries(stored(table, row));
  const names = entries.map(([name]) => sql.identifier([name]));
  const values = entries.map(([, value]) => parameter(value));
  if (table === "sessions") {
    names.push(sql.identifier(["account_id"]), sql.identifier(["method"]));
    values.push(
      sql.fragment`(select account_id from person_directory where user_id = ${String(row.user_id)})`,
      "cookie",
    );
  }
  return tx.one(sql.type(authTables[table])`
    insert into ${sql.identifier([table])} (${sql.join(names, sql.fragment`, `)})
    values (${sql.join(values, sql.fragment`, `)})
    returning ${columns(table)}
  `);
}

/** Update rows: set values, and add to numbers. */
export function updateAuthRows(
  tx: Tx,
  table: AuthTable,
  change: {
    where: readonly Condition[];
    set?: Readonly<Record<string, unknown>>;
    add?: Readonly<Record<string, number>>;
  },
): Promise<readonly AuthRow[]> {
  const { where, set = {}, add = {} } = change;
  const parts = [
    ...Object.entries(stored(table, set)).map(
      ([name, value]) => sql.fragment`${sql.identifier([name])} = ${parameter(value)}`,
    ),
    ...Object.entries(add).map(
      ([name, delta]) => sql.fragment`${column(table, name)} = ${column(table, name)} + ${delta}`,
    ),
  ];
  return tx.any(sql.type(authTables[table])`
    update ${sql.identifier([table])} set ${sql.join(parts, sql.fragment`, `)}
    where ${conditions(table, where)}
    returning ${columns(table)}
  `);
}

/** Delete rows. */
export function deleteAuthRows(
  tx: Tx,
  table: AuthTable,
  where: readonly Condition[],
): Promise<readonly AuthRow[]> {
  return tx.any(sql.type(authTables[table])`
    delete from ${sql.identifier([table])} where ${conditions(table, where)}
    returning ${columns(table)}
  `);
}

function columns(table: AuthTable): FragmentSqlToken {
  const names = Object.keys(authTables[table].shape).map((name) => sql.identifier([name]));
  return sql.fragment`${sql.join(names, sql.fragment`, `)}`;
}

function column(table: AuthTable, name: string) {
  if (!Object.hasOwn(authTables[table].shape, name)) {
    throw new Error(`Cannot use column "${name}": ${table} has none of that name`);
  }
  return sql.identifier([name]);
}

function conditions(table: AuthTable, where: readonly Condition[]): FragmentSqlToken {
  if (where.length === 0) {
    throw new Error(`Cannot use all of ${table}: name the rows`);
  }
  const parts = where.map((condition) => conditionOf(table, condition));
  if (table === "sessions") {
    parts.push(sql.fragment`revoked_at is null`);
  }
  return sql.fragment`${sql.join(parts, sql.fragment` and `)}`;
}

function conditionOf(table: AuthTable, { field, operator, value }: Condition): FragmentSqlToken {
  if (table === "sessions" && field === "token") {
    return tokenCondition(operator, value);
  }
  const special = table === "users" ? personCondition(field, operator, value) : undefined;
  return special ?? comparison(column(table, field), operator, value);
}

/** A person by id or mail address, through the directories. Never one who was deactivated. */
function personCondition(
  field: string,
  operator: string,
  value: unknown,
): FragmentSqlToken | undefined {
  if (operator !== "eq" || (field !== "id" && field !== "email")) {
    return undefined;
  }
  const found =
    field === "id"
      ? sql.fragment`select account_id, user_id from person_directory where user_id = ${String(value)}`
      : sql.fragment`select account_id, user_id from email_directory where email = lower(${String(value)})`;
  return sql.fragment`users.active and (users.account_id, users.id) = (${found})`;
}

/** Sessions by token; or by id, which stands for the token wherever that is not known. */
function tokenCondition(operator: string, value: unknown): FragmentSqlToken {
  const tokens = operator === "in" && Array.isArray(value) ? value.map(String) : [String(value)];
  if (operator !== "in" && operator !== "eq") {
    throw new Error(`Cannot compare tokens by "${operator}"`);
  }
  const ids = tokens.filter((token) => isId("ses", token));
  const hashes = tokens.map((token) => hashToken(token));
  return sql.fragment`(id = any(${sql.array(ids, "text")}) or token_hash = any(${sql.array(hashes, "bytea")}))`;
}

function comparison(
  name: ReturnType<typeof column>,
  operator: string,
  value: unknown,
): FragmentSqlToken {
  if (operator === "in" && Array.isArray(value)) {
    return sql.fragment`${name} = any(${sql.array(value.map(String), "text")})`;
  }
  if (value === null) {
    return operator === "ne" ? sql.fragment`${name} is not null` : sql.fragment`${name} is null`;
  }
  const sign = signs[operator];
  if (sign === undefined) {
    throw new Error(`Cannot compare by "${operator}"`);
  }
  return sql.fragment`${name} ${sign} ${parameter(value)}`;
}

const signs: Readonly<Record<string, FragmentSqlToken | undefined>> = {
  eq: sql.fragment`=`,
  ne: sql.fragment`<>`,
  lt: sql.fragment`<`,
  lte: sql.fragment`<=`,
  gt: sql.fragment`>`,
  gte: sql.fragment`>=`,
};

/** What is written for what better-auth says: of a token its hash. */
function stored(
  table: AuthTable,
  row: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const values: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(row)) {
    if (table === "sessions" && name === "token") {
      values.token_hash = hashToken(String(value));
    } else if (table === "sessions" && name === "ip") {
      values.ip = value === "" ? null : value;
    } else {
      column(table, name);
      values[name] = value;
    }
  }
  return values;
}

function parameter(value: unknown): ValueExpression {
  if (value instanceof Date) {
    return value.toISOString();
  }
  if (Buffer.isBuffer(value)) {
    return sql.binary(value);
  }
  if (value === null || ["string", "number", "boolean"].includes(typeof value)) {
    return value as string | number | boolean | null;
  }
  throw new Error("Cannot store a value that is no text, number, truth value or time");
}
