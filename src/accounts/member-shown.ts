import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { MemberRole as ShownRole } from "../../gen/callora/accounts/v1/account_service_pb.ts";
import { permissionDenied } from "../rpc/errors.ts";
import type { MemberRole } from "../rpc/principal.ts";
import type { AccountRow, MemberRow } from "./member-store.ts";
import { managesAccount, type RoleProblem } from "./role-rules.ts";

const roleOf: Readonly<Record<number, MemberRole>> = {
  [ShownRole.OWNER]: "owner",
  [ShownRole.ADMIN]: "admin",
  [ShownRole.MEMBER]: "member",
  [ShownRole.VIEWER]: "viewer",
};

/** A role as callers see it. */
export const shownRoleOf = {
  owner: ShownRole.OWNER,
  admin: ShownRole.ADMIN,
  member: ShownRole.MEMBER,
  viewer: ShownRole.VIEWER,
} satisfies Record<MemberRole, ShownRole>;

/** The role that a request names. */
export function toRole(role: ShownRole): MemberRole {
  return roleOf[role] ?? "viewer";
}

/** An account as its member sees it. */
export function toAccount(row: AccountRow) {
  return {
    id: row.account_id,
    name: row.name,
    createTime: timestampFromMs(row.created_at),
    role: shownRoleOf[row.role],
  };
}

/** A member as the others see them. */
export function toMember(row: MemberRow) {
  return {
    userId: row.user_id,
    username: row.username,
    email: row.email,
    role: shownRoleOf[row.role],
    createTime: timestampFromMs(row.created_at),
  };
}

const explanations = {
  ROLE_OWN: "nobody changes their own role",
  ROLE_DENIED: "the caller's role in the account does not allow it",
} satisfies Record<RoleProblem, string>;

/** Throws PERMISSION_DENIED when there is a problem with what a caller does in an account. */
export function refuse(problem: RoleProblem | null, what: string): void {
  if (problem !== null) {
    throw permissionDenied(problem, `Cannot ${what}: ${explanations[problem]}`);
  }
}

/** Throws PERMISSION_DENIED unless the role manages the account. */
export function requireManager(role: MemberRole): void {
  refuse(managesAccount(role) ? null : "ROLE_DENIED", "manage the account");
}
