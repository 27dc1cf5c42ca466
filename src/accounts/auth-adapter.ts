import type { BetterAuthOptions } from "better-auth";
import {
  type CustomAdapter,
  createAdapterFactory,
  type DBAdapter,
  type Where,
} from "better-auth/adapters";
import { APIError } from "better-auth/api";
import { insertAudit } from "../audit/store.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import { announceSessions } from "./announce-sessions.ts";
import { type AuthChange, recordOf } from "./auth-audit.ts";
import { type AuthRequest, type AuthRequests, noRequest } from "./auth-request.ts";
import {
  type Condition,
  countAuthRows,
  deleteAuthRows,
  findAuthRows,
  insertAuthRow,
  updateAuthRows,
} from "./auth-store.ts";
import { type AuthRow, type AuthTable, authTable } from "./auth-tables.ts";
import {
  type AtLast,
  lateTransaction,
  type Statements,
  singleStatements,
} from "./late-transaction.ts";
import { maySignIn } from "./sign-in.ts";
import { findPerson, lockPerson } from "./store.ts";
import { hashToken } from "./token.ts";
import { revokeTokens } from "./token-store.ts";
import { createUser } from "./users.ts";

interface Deps {
  db: Database;
  trust: Trust;
  requests: AuthRequests;
  now: () => Date;
}

type CleanedWhere = Required<Where>;
type Rows = Readonly<Record<string, unknown>>;

/**
 * Where better-auth keeps what it knows: our tables. A person gets an account of their own; of a session's token
 * only the hash is kept; every change appends what the audit log says of it, and announces ended sessions, in its
 * own transaction.
 */
export function authAdapter(deps: Deps): (options: BetterAuthOptions) => DBAdapter {
  const config = {
    adapterId: "callora",
    supportsNumericIds: false,
    supportsDates: true,
    supportsBooleans: true,
  };
  return (options) => {
    const over = (statements: Statements) => () => modelsOver(deps, statements);
    return createAdapterFactory({
      config: {
        ...config,
        transaction: (work) =>
          lateTransaction(deps.db, (statements) =>
            work(createAdapterFactory({ config, adapter: over(statements) })(options)),
          ),
      },
      adapter: over(singleStatements(deps.db)),
    })(options);
  };
}

/** What better-auth asks of us. Its models and fields are called here as authModels says. */
function modelsOver(deps: Deps, statements: Statements): CustomAdapter {
  const models = Object.assign(readingModels(deps, statements), writingModels(deps, statements));
  // Its interface lets the caller choose the type of a row, which no implementation can promise.
  return models as unknown as CustomAdapter;
}

interface Target {
  model: string;
  where: CleanedWhere[];
}

function readingModels({ requests }: Deps, { read }: Statements) {
  const request = () => requests.getStore() ?? noRequest();
  return {
    async findOne({ model, where }: Target) {
      const table = authTable(model);
      rememberAll(request(), table, where);
      const query = { where: toConditions(where), limit: 1 };
      const [row] = await read((tx) => findAuthRows(tx, table, query));
      if (row !== undefined) {
        noteWhom(request(), table, row);
      }
      return row === undefined ? null : toShown(request(), table, row);
    },
    async findMany({ model, where = [], limit, sortBy }: Parameters<CustomAdapter["findMany"]>[0]) {
      const table = authTable(model);
      rememberAll(request(), table, where);
      // It sorts by when rows were made, and by nothing else.
      const order = sortBy === undefined ? {} : { orderBy: "created_at" };
      const isDescending = sortBy?.direction === "desc";
      const query = { where: toConditions(where), limit, isDescending, ...order };
      const rows = await read((tx) => findAuthRows(tx, table, query));
      return rows.map((row) => toShown(request(), table, row));
    },
    count: ({ model, where = [] }: { model: string; where?: CleanedWhere[] | undefined }) =>
      read((tx) => countAuthRows(tx, authTable(model), toConditions(where))),
  };
}

function writingModels(deps: Deps, { write }: Statements) {
  const request = () => deps.requests.getStore() ?? noRequest();

  async function remove({ model, where }: Target): Promise<readonly AuthRow[]> {
    const table = authTable(model);
    return write(async (tx, atLast) => {
      if (table === "sessions") {
        await lockOwner(tx, where);
      }
      const rows = await deleteAuthRows(tx, table, toConditions(where));
      await tell(deps, { tx, atLast }, { table, kind: "delete", rows, set: {} });
      return rows.map((row) => toShown(request(), table, row));
    });
  }

  async function change({ model, where }: Target, set: Rows, add = {}): Promise<AuthRow[]> {
    const table = authTable(model);
    refuseIdentityChange(table, set);
    return write(async (tx, atLast) => {
      const rows = await updateAuthRows(tx, table, { where: toConditions(where), set, add });
      await tell(deps, { tx, atLast }, { table, kind: "update", rows, set });
      return rows.map((row) => toShown(request(), table, row));
    });
  }

  return {
    async create({ model, data }: { model: string; data: Rows }) {
      const table = authTable(model);
      if (table === "sessions") {
        remember(request(), String(data.token));
      }
      return write(async (tx, atLast) => {
        if (table === "sessions") {
          await refuseLateSignIn(tx, request(), String(data.user_id));
        }
        if (table === "sessions" || table === "sign_in_methods") {
          await refuseHalfSignIn(tx, request(), String(data.user_id));
        }
        const row =
          table === "users"
            ? await insertPerson(tx, data, deps.now())
            : await insertAuthRow(tx, table, data);
        await tell(deps, { tx, atLast }, { table, kind: "insert", rows: [row], set: data });
        return toShown(request(), table, row);
      });
    },
    update: async ({ update, ...target }: Target & { update: unknown }) =>
      (await change(target, update as Rows))[0] ?? null,
    updateMany: async ({ update, ...target }: Target & { update: Rows }) =>
      (await change(target, update)).length,
    incrementOne: async ({ increment, set = {}, ...target }: IncrementOne) =>
      (await change(target, set, increment))[0] ?? null,
    consumeOne: async (target: Target) => (await remove(target))[0] ?? null,
    delete: async (target: Target) => {
      await remove(target);
    },
    deleteMany: async (target: Target) => (await remove(target)).length,
  };
}

type IncrementOne = Parameters<NonNullable<CustomAdapter["incrementOne"]>>[0];

function toConditions(where: readonly CleanedWhere[]): Condition[] {
  return where.map(({ field, operator = "eq", value, connector, mode }) => {
    if ((connector === "OR" && where.length > 1) || mode === "insensitive") {
      throw new Error("Cannot look up by one of several conditions, or in any case");
    }
    return { field, operator, value };
  });
}

/** A mail address has its place in a directory, and nobody gives himself a role. */
function refuseIdentityChange(table: AuthTable, set: Rows): void {
  if (table === "users") {
    for (const name of ["id", "account_id", "email", "role"]) {
      if (name in set) {
        throw new Error(`Cannot change the ${name} of a person here`);
      }
    }
  }
}

/** Whoever ends all sessions of a person waits for the sign-ins that are under way, and the other way round. */
async function lockOwner(tx: Tx, where: readonly CleanedWhere[]): Promise<void> {
  const userId = where.find(({ field }) => field === "user_id")?.value;
  const person = typeof userId === "string" ? await findPerson(tx, userId) : null;
  if (person !== null) {
    await lockPerson(tx, { accountId: person.account_id, userId: person.id });
  }
}

async function refuseLateSignIn(
  tx: Tx,
  { passwordHash }: AuthRequest,
  userId: string,
): Promise<void> {
  const person = await findPerson(tx, userId);
  const owner = { accountId: person?.account_id ?? "", userId };
  if (!(await maySignIn(tx, { ...owner, passwordHash }))) {
    throw new APIError("UNAUTHORIZED", {
      code: "INVALID_EMAIL_OR_PASSWORD",
      message: "Invalid email or password",
    });
  }
}

/** GitHub alone neither signs in nor is linked to whoever has a second factor: better-auth would not ask for it. */
async function refuseHalfSignIn(tx: Tx, { path }: AuthRequest, userId: string): Promise<void> {
  if (path === "/callback/github") {
    const person = await findAuthPerson(tx, userId);
    if (person?.two_factor_enabled === true) {
      throw new APIError("FORBIDDEN", {
        code: "SECOND_FACTOR_REQUIRED",
        message: "Sign in by the password and the second factor",
      });
    }
  }
}

async function insertPerson(tx: Tx, data: Rows, now: Date): Promise<AuthRow> {
  const id = String(data.id);
  const person = {
    id,
    // Not the mail address: a name is shown to others.
    username: id,
    email: String(data.email),
    emailVerified: data.email_verified === true,
    name: String(data.name ?? ""),
    image: typeof data.image === "string" ? data.image : null,
    role: "user",
  } as const;
  if ((await createUser(tx, person, now)) === null) {
    throw new APIError("UNPROCESSABLE_ENTITY", {
      code: "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL",
      message: "User already exists. Use another email.",
    });
  }
  const where = [{ field: "id", operator: "eq", value: id }];
  const set = { has_completed_onboarding: data.has_completed_onboarding === true };
  const [row] = await updateAuthRows(tx, "users", { where, set });
  if (row === undefined) {
    throw new Error("Cannot find the person who was just made");
  }
  return row;
}

/** Tell the audit log and other processes of changes, in their transaction. */
async function tell(
  { trust, requests, now }: Deps,
  { tx, atLast }: { tx: Tx; atLast: AtLast },
  change: Omit<AuthChange, "row" | "path" | "hasSession"> & { rows: readonly AuthRow[] },
): Promise<void> {
  const request = requests.getStore() ?? noRequest();
  const { rows, table, kind, set } = change;
  for (const row of rows) {
    const { path, hasSession } = request;
    const record = recordOf({ table, kind, set, row, path, hasSession });
    if (record !== undefined) {
      const { userId, action, resource, detail } = record;
      const person = await findAuthPerson(tx, userId);
      const accountId = String(person?.account_id ?? "");
      const { ip, requestId } = request;
      const tenant = { accountId, actor: userId, ip, requestId, action };
      const isHalf = person?.two_factor_enabled === true && path === "/sign-in/email";
      const said = isHalf ? `${detail}, second factor asked unless the device is trusted` : detail;
      await insertAudit(tx, { tenant, resource, detail: said });
      if (action === "user.password_reset") {
        // Whoever had the address before, or broke in, may have made some.
        const tokens = await revokeTokens(tx, { accountId, userId, now: now() });
        const hashes = tokens.map(({ token_hash: hash }) => hash.toString("hex"));
        if (hashes.length > 0) {
          announceLater(request, atLast, (last) => trust.announce(last, "token", hashes));
        }
      }
    }
  }
  if (table === "sessions" && kind !== "insert" && rows.length > 0) {
    const ids = rows.map(({ id }) => String(id));
    announceLater(request, atLast, (last) => announceSessions(last, trust, ids));
  }
}

/** From an announcement to the commit nobody else can announce: better-auth must have nothing to do in between. */
function announceLater(
  request: AuthRequest,
  atLast: AtLast,
  announce: (tx: Tx) => Promise<bigint>,
): void {
  atLast(async (tx) => {
    request.epoch = await announce(tx);
  });
}

async function findAuthPerson(tx: Tx, userId: string): Promise<AuthRow | undefined> {
  const where = [{ field: "id", operator: "eq", value: userId }];
  return (await findAuthRows(tx, "users", { where, limit: 1 }))[0];
}

function rememberAll(request: AuthRequest, table: AuthTable, where: readonly CleanedWhere[]): void {
  for (const { field, value } of where) {
    if (table === "sessions" && field === "token" && typeof value === "string") {
      remember(request, value);
    }
  }
}

function noteWhom(request: AuthRequest, table: AuthTable, row: AuthRow): void {
  request.hasSession ||= table === "sessions";
  if (table === "users" || table === "sessions") {
    request.userId = String(table === "users" ? row.id : row.user_id);
  }
}

function remember({ tokens }: AuthRequest, token: string): void {
  tokens.set(hashToken(token).toString("hex"), token);
}

/** A row as better-auth sees it. Of a session that is not the request's own, the id stands for the token. */
function toShown({ tokens }: AuthRequest, table: AuthTable, row: AuthRow): AuthRow {
  if (table !== "sessions") {
    return row;
  }
  const { token_hash: hash, ...shown } = row;
  const token = Buffer.isBuffer(hash) ? tokens.get(hash.toString("hex")) : undefined;
  return { ...shown, token: token ?? row.id };
}
