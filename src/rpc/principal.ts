import type { ContextValues } from "@connectrpc/connect";
import { Access } from "../../gen/callora/policy/v1/policy_pb.ts";
import { type Call, callOf } from "./call.ts";
import { permissionDenied, unauthenticated } from "./errors.ts";
import type { Policy } from "./policy.ts";

/** What a person may do on the platform. Each role includes those before it. */
export const roles = ["user", "developer", "admin", "super_admin"] as const;

/** A platform role. */
export type Role = (typeof roles)[number];

/** What a person may do in an account, the most first. */
export const memberRoles = ["owner", "admin", "member", "viewer"] as const;

/** A role in an account. */
export type MemberRole = (typeof memberRoles)[number];

/** Whether calls move real money. */
export type Mode = "live" | "test";

/** Who calls, whichever credential said so. */
export type Principal =
  | {
      kind: "user";
      id: string;
      /** The account that the call acts for. */
      accountId: string;
      /** What the person may do in that account. */
      memberRole: MemberRole;
      /** The person's own account. */
      homeAccountId: string;
      role: Role;
      mode: "live";
      credential: Credential;
      /** The session's or the token's id; of a token of an external issuer, who that says it is. */
      credentialId: string;
    }
  | {
      kind: "key";
      id: string;
      /** The first key of its rotations. */
      familyId: string;
      /** The member who made the first of them. Empty: nobody knows. */
      createdBy: string;
      accountId: string;
      /** Null: every API. */
      apiId: string | null;
      mode: Mode;
      scopes: readonly string[];
    }
  | {
      kind: "service";
      id: string;
      accountId: string;
      /** What the service may call: the scopes of the methods' policies. */
      scopes: readonly string[];
      mode: "live";
    };

/**
 * What a person showed: the cookie of a session, a session's signed token, that of another issuer, an API token, or a
 * wallet's session.
 */
export type Credential = "session" | "jwt" | "external" | "token" | "wallet";

/** A person who calls. */
export type UserPrincipal = Extract<Principal, { kind: "user" }>;

/** Find who presents a credential. Undefined when the headers carry none that it knows. */
export type Authenticator = (call: Call) => Principal | undefined | Promise<Principal | undefined>;

/** What the limits of a caller hang on: whatever replaces a key has the same ones. */
export function limitedId(principal: Principal): string {
  return principal.kind === "key" ? principal.familyId : principal.id;
}

/** The caller. Throws UNAUTHENTICATED when there is none. */
export function requirePrincipal(context: { values: ContextValues }): Principal {
  const { principal } = callOf(context);
  if (principal === undefined) {
    throw unauthenticated();
  }
  return principal;
}

/** The person who calls. Throws UNAUTHENTICATED when there is none. */
export function requireUser(context: { values: ContextValues }): UserPrincipal {
  const principal = requirePrincipal(context);
  if (principal.kind !== "user") {
    throw unauthenticated();
  }
  return principal;
}

/** The caller's own account, as the tenant of a transaction that changes what is the person's. */
export function personalTenant(context: { values: ContextValues }) {
  const { homeAccountId: accountId, id } = requireUser(context);
  return tenantFor(context, { accountId, actor: id });
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

/** What of a policy says who may call. */
export type AccessPolicy = Pick<Policy, "access" | "auditAction" | "scope" | "personal">;

/** Throws UNAUTHENTICATED or PERMISSION_DENIED unless the principal may call what has the policy. */
export function checkAccess(policy: AccessPolicy, principal: Principal | undefined): undefined {
  if (policy.access === Access.PUBLIC) {
    return undefined;
  }
  if (principal === undefined) {
    throw unauthenticated();
  }
  if (!admits(policy, principal)) {
    throw permissionDenied("ACCESS_DENIED", "Cannot call this: the credential does not allow it");
  }
  if (principal.kind === "user" && principal.memberRole === "viewer" && changesAccount(policy)) {
    throw permissionDenied("VIEWER_READ_ONLY", "Cannot change the account: a viewer only looks");
  }
  return undefined;
}

/** Every method that changes something is audited. */
function changesAccount({ auditAction, personal = false }: AccessPolicy): boolean {
  return auditAction !== "" && !personal;
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

/** What an internal service may call, if its token has the method's scope. */
const serviceAccess: ReadonlySet<Access> = new Set<Access>([Access.SERVICE, Access.CREDENTIAL]);

/** Whether somebody runs the platform. */
export function isAdmin(principal: Principal): boolean {
  return principal.kind === "user" && isAdminRole(principal.role);
}

/** Whether whoever has the role runs the platform. */
export function isAdminRole(role: Role): boolean {
  return roles.indexOf(role) >= roles.indexOf("admin");
}

function admits({ access, scope = "" }: AccessPolicy, principal: Principal): boolean {
  if (principal.kind === "key") {
    return keyAccess.has(access);
  }
  if (principal.kind === "service") {
    return serviceAccess.has(access) && scope !== "" && principal.scopes.includes(scope);
  }
  const least = leastRole[access] ?? null;
  return least !== null && roles.indexOf(principal.role) >= roles.indexOf(least);
}
