import { expect, test } from "vitest";
import { type MemberRole, memberRoles, type Role, roles } from "../rpc/principal.ts";
import {
  grantProblem,
  manageProblem,
  memberChangeProblem,
  roleChangeProblem,
} from "./role-rules.ts";

/** Whom each platform role may give which roles. */
const manages: Readonly<Record<Role, readonly Role[]>> = {
  user: [],
  developer: [],
  admin: ["user", "developer"],
  super_admin: ["user", "developer", "admin", "super_admin"],
};

/** Whom each role of an account may give which roles. */
const grants: Readonly<Record<MemberRole, readonly MemberRole[]>> = {
  owner: ["owner", "admin", "member", "viewer"],
  admin: ["member", "viewer"],
  member: [],
  viewer: [],
};

const platform = roles.flatMap((by) => roles.flatMap((of) => roles.map((to) => ({ by, of, to }))));

test.for(platform)("a $by makes a $of a $to, or not", ({ by, of, to }) => {
  const may = manages[by].includes(of) && manages[by].includes(to);
  const change = { by: { id: "a", role: by }, of: { id: "b", role: of }, to };

  expect(roleChangeProblem(change)).toBe(may ? null : "ROLE_DENIED");
  expect(manageProblem(by, of)).toBe(manages[by].includes(of) ? null : "ROLE_DENIED");
});

const members = memberRoles.flatMap((by) =>
  memberRoles.flatMap((of) => memberRoles.map((to) => ({ by, of, to }))),
);

test.for(members)("in an account a $by makes a $of a $to, or not", ({ by, of, to }) => {
  const may = grants[by].includes(of) && grants[by].includes(to);
  const change = { by: { id: "a", role: by }, of: { id: "b", role: of }, to };

  expect(memberChangeProblem(change)).toBe(may ? null : "ROLE_DENIED");
  expect(grantProblem(by, of)).toBe(grants[by].includes(of) ? null : "ROLE_DENIED");
});

test("nobody changes their own role, whatever it is", () => {
  for (const role of roles) {
    const self = { id: "a", role };
    expect(roleChangeProblem({ by: self, of: self, to: "user" })).toBe("ROLE_OWN");
  }
  for (const role of memberRoles) {
    const self = { id: "a", role };
    expect(memberChangeProblem({ by: self, of: self, to: "viewer" })).toBe("ROLE_OWN");
  }
});
