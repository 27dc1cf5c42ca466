import { isAdminRole, type MemberRole, type Role } from "../rpc/principal.ts";

/** Why a change is refused. */
export type RoleProblem = "ROLE_OWN" | "ROLE_DENIED";

/** Why somebody may not make a person of a platform role, or change one of it. Null: they may. */
export function manageProblem(by: Role, role: Role): RoleProblem | null {
  if (by === "super_admin") {
    return null;
  }
  return by === "admin" && !isAdminRole(role) ? null : "ROLE_DENIED";
}

/** Why somebody may not give a person another platform role. Null: they may. */
export function roleChangeProblem(change: {
  by: { id: string; role: Role };
  of: { id: string; role: Role };
  to: Role;
}): RoleProblem | null {
  const { by, of, to } = change;
  if (by.id === of.id) {
    return "ROLE_OWN";
  }
  return manageProblem(by.role, of.role) ?? manageProblem(by.role, to);
}

/** Whether one may change the account itself, and look at who is invited. */
export function managesAccount(role: MemberRole): boolean {
  return role === "owner" || role === "admin";
}

/** Why somebody may not make, or unmake, a member of a role. Null: they may. */
export function grantProblem(by: MemberRole, role: MemberRole): RoleProblem | null {
  if (by === "owner") {
    return null;
  }
  return by === "admin" && (role === "member" || role === "viewer") ? null : "ROLE_DENIED";
}

/** Why somebody may not give a member another role. Null: they may. */
export function memberChangeProblem(change: {
  by: { id: string; role: MemberRole };
  of: { id: string; role: MemberRole };
  to: MemberRole;
}): RoleProblem | null {
  const { by, of, to } = change;
  if (by.id === of.id) {
    return "ROLE_OWN";
  }
  return grantProblem(by.role, of.role) ?? grantProblem(by.role, to);
}
