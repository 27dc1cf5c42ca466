import type { ContextValues } from "@connectrpc/connect";
import { Access } from "../../gen/callora/policy/v1/policy_pb.ts";
import { type Call, callOf } from "./call.ts";
import { permissionDenied, unauthenticated } from "./errors.ts";

/** What a person may do on the platform. Each role includes those before it. */
export const roles = ["user", "developer", "admin", "super_admin"] as const;

/** A platform role. */
export type Role = (typeof roles)[number];

/** Whether calls move real money. */
export type Mode = "live" | "test";

/** Who calls, whichever credential said so. */
export type Principal =
  | {
      kind: "user";
      id: string;
      accountId: string;
      role: Role;
      mode: "live";
      credential: "session" | "jwt" | "token" | "wallet";
      /** Names the session or the token. Never the secret itself. */
      credentialId: string;
    }
  | {
      kind: "key";
      id: string;
      accountId: string;
      /** Null: every API. */
      apiId: string | null;
      mode: Mode;
      scopes: readonly string[];
    }
  | { kind: "service"; id: string; accountId: string; scopes: readonly string[]; mode: "live" };

/** Find who presents a credential. Undefined when the headers carry none that it knows. */
export type Authenticator = (call: Call) => Principal | undefined | Promise<Principal | undefined>;

/** The caller. Throws UNAUTHENTICATED when there is none. */
export function requirePrincipal(context: { values: ContextValues }): Principal {
  const { principal } = callOf(context);
  if (principal === undefined) {
    throw unauthenticated();
  }
  return principal;
}

/** The caller's account, as the tenant of a transaction. Throws UNAUTHENTICATED without a caller. */
export function requireTenant(context: { values: ContextValues }) {
  const { accountId, id } = requirePrincipal(context);
  return tenantFor(context, { accountId, actor: id });
}

/** A tenant of a transaction that the handler names itself: at sign-in, or where an admin acts on an account. */
export function tenantFor(
  context: { values: ContextValues },
  { accountId, actor }: { accountId: string; actor: string },
) {
  const call = callOf(context);
  return {
    accountId,
    actor,
    ip: call.exchange.clientIp,
    requestId: call.exchange.requestId,
    action: call.policy.auditAction,
    audited: () => {
      call.audited = true;
    },
  };
}

/** Throws UNAUTHENTICATED or PERMISSION_DENIED unless the principal may call what asks for `access`. */
export function checkAccess(access: Access, principal: Principal | undefined): undefined {
  if (access === Access.PUBLIC) {
    return undefined;
  }
  if (principal === undefined) {
    throw unauthenticated();
  }
  if (!admits(access, principal)) {
    throw permissionDenied("ACCESS_DENIED", "Cannot call this: the credential does not allow it");
  }
  return undefined;
}

/** The least role of a person that each kind of access asks for. Null: not for people. */
const leastRole: Readonly<Record<number, Role | null>> = {
  [Access.UNSPECIFIED]: null,
  [Access.PUBLIC]: "user",
  [Access.USER]: "user",
  [Access.DEVELOPER]: "developer",
  [Access.ADMIN]: "admin",
  [Access.SUPER_ADMIN]: "super_admin",
  [Access.API_KEY]: null,
  [Access.USER_OR_API_KEY]: "user",
  [Access.SERVICE]: "admin",
  [Access.METRICS_KEY]: null,
  [Access.CREDENTIAL]: "user",
} satisfies Record<Access, Role | null>;

/** What the holder of an API key may call. */
const keyAccess: ReadonlySet<Access> = new Set<Access>([
  Access.API_KEY,
  Access.USER_OR_API_KEY,
  Access.CREDENTIAL,
]);

/** Whether somebody runs the platform. */
export function isAdmin(principal: Principal): boolean {
  return principal.kind === "user" && roles.indexOf(principal.role) >= roles.indexOf("admin");
}

function admits(access: Access, principal: Principal): boolean {
  if (principal.kind === "key") {
    return keyAccess.has(access);
  }
  if (principal.kind === "service") {
    return access === Access.SERVICE || access === Access.CREDENTIAL;
  }
  const least = leastRole[access] ?? null;
  return least !== null && roles.indexOf(principal.role) >= roles.indexOf(least);
}
