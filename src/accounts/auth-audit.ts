import type { AuthRow, AuthTable } from "./auth-tables.ts";

/** What the audit log says of a change. */
export interface AuthRecord {
  userId: string;
  action: string;
  resource: string;
  detail: string;
}

/** A row that better-auth changed, and how. */
export interface AuthChange {
  table: AuthTable;
  kind: "insert" | "update" | "delete";
  row: AuthRow;
  /** The columns that an update set. */
  set: Readonly<Record<string, unknown>>;
  /** The path of the request, below /api/auth. */
  path: string;
  /** Whether the request brought a session. */
  hasSession: boolean;
}

/** What the audit log says of a change. Undefined: nothing, as of a token that was used up. */
export function recordOf(change: AuthChange): AuthRecord | undefined {
  const { table } = change;
  if (table === "users") {
    return userRecord(change);
  }
  if (table === "sessions") {
    return sessionRecord(change);
  }
  if (table === "sign_in_methods") {
    return methodRecord(change);
  }
  return table === "second_factors" ? factorRecord(change) : undefined;
}

function userRecord({ kind, row, set, path }: AuthChange): AuthRecord | undefined {
  const record = { userId: text(row.id), resource: `user:${text(row.id)}`, detail: "" };
  if (kind === "insert") {
    return { ...record, action: "user.sign_up", detail: wayOf(path) };
  }
  if (set.email_verified === true) {
    return { ...record, action: "user.email_verify" };
  }
  if (set.two_factor_enabled === false) {
    return { ...record, action: "user.totp_disable" };
  }
  // Of switching it on the second factor itself tells.
  return set.two_factor_enabled === true ? undefined : { ...record, action: "user.update" };
}

function sessionRecord({ kind, row, path, hasSession }: AuthChange): AuthRecord | undefined {
  const userId = text(row.user_id);
  const session = `session:${text(row.id)}`;
  if (kind === "insert") {
    // Who is signed in gets another session when a second factor is switched on.
    const isSignIn = signInPaths.has(path) && !(hasSession && path.startsWith("/two-factor/"));
    return isSignIn
      ? { userId, action: "user.login", resource: "auth/session", detail: wayOf(path) }
      : undefined;
  }
  if (kind === "update" || replacingPaths.has(path)) {
    return undefined;
  }
  const action = path === "/sign-out" ? "user.logout" : "session.revoke";
  return { userId, action, resource: session, detail: "" };
}

function methodRecord({ kind, row, set, path }: AuthChange): AuthRecord | undefined {
  const userId = text(row.user_id);
  const resource = `user:${userId}`;
  if (kind === "insert") {
    const isLink = row.provider_id !== "credential" && path !== "/sign-up/email";
    return isLink
      ? { userId, action: "user.link", resource, detail: text(row.provider_id) }
      : passwordRecord(userId, path);
  }
  return "password_hash" in set ? passwordRecord(userId, path) : undefined;
}

function passwordRecord(userId: string, path: string): AuthRecord | undefined {
  const action = passwordActions[path];
  return action === undefined
    ? undefined
    : { userId, action, resource: `user:${userId}`, detail: "" };
}

function factorRecord({ kind, row, set, path }: AuthChange): AuthRecord | undefined {
  const userId = text(row.user_id);
  const record = { userId, resource: `user:${userId}`, detail: "" };
  if (kind === "update" && set.verified === true) {
    return { ...record, action: "user.totp_enable" };
  }
  // All codes are replaced. One that is used up is no change: the sign-in tells of it.
  const isReplaced = path === "/two-factor/generate-backup-codes" && "backup_codes" in set;
  return isReplaced ? { ...record, action: "user.backup_codes" } : undefined;
}

/**
 * What the audit log calls an attempt that a wrong password or code ended; undefined: it says nothing. A sign-in by a
 * password names nobody: whoever tried it was nobody.
 */
export function refusedActionOf(path: string, hasSession: boolean): string | undefined {
  return hasSession && path.startsWith("/two-factor/verify-")
    ? "user.totp_enable"
    : refusedActions[path];
}

const refusedActions: Readonly<Record<string, string | undefined>> = {
  "/sign-in/email": "user.login",
  "/two-factor/verify-totp": "user.login",
  "/two-factor/verify-backup-code": "user.login",
  "/change-password": "user.password_change",
  "/two-factor/enable": "user.totp_enable",
  "/two-factor/disable": "user.totp_disable",
  "/two-factor/get-totp-uri": "user.totp_uri",
  "/two-factor/generate-backup-codes": "user.backup_codes",
};

const signInPaths: ReadonlySet<string> = new Set([
  "/sign-up/email",
  "/sign-in/email",
  "/callback/github",
  "/two-factor/verify-totp",
  "/two-factor/verify-backup-code",
]);

/** Where a session takes the place of another, or waits for the second factor. */
const replacingPaths: ReadonlySet<string> = new Set([
  "/sign-in/email",
  "/two-factor/verify-totp",
  "/two-factor/verify-backup-code",
  "/two-factor/disable",
]);

const passwordActions: Readonly<Record<string, string | undefined>> = {
  "/reset-password": "user.password_reset",
  "/change-password": "user.password_change",
};

const ways: Readonly<Record<string, string | undefined>> = {
  "/sign-up/email": "password",
  "/sign-in/email": "password",
  "/callback/github": "github",
  "/two-factor/verify-totp": "totp",
  "/two-factor/verify-backup-code": "backup code",
};

function wayOf(path: string): string {
  return ways[path] ?? "";
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}
