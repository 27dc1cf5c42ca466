import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { Access } from "../../gen/callora/policy/v1/policy_pb.ts";
import {
  checkAccess,
  type MemberRole,
  memberRoles,
  type Principal,
  type Role,
  roles,
} from "./principal.ts";

const account = { id: "x_1", accountId: "acc_1" };
const key: Principal = {
  kind: "key",
  familyId: "key_1",
  createdBy: "usr_1",
  ...account,
  apiId: "api_1",
  mode: "live",
  scopes: [],
};
const callers: Readonly<Record<string, Principal | undefined>> = {
  nobody: undefined,
  key,
  service: service("keys.verify"),
  otherService: service("usage.record"),
  ...Object.fromEntries(roles.map((role) => [role, person(role)])),
};

function person(role: Role, memberRole: MemberRole = "owner"): Principal {
  return {
    kind: "user",
    ...account,
    memberRole,
    homeAccountId: "acc_1",
    role,
    mode: "live",
    credential: "jwt",
    credentialId: "ses_1",
  };
}

function service(...scopes: string[]): Principal {
  return { kind: "service", ...account, scopes, mode: "live" };
}

const people = ["user", "developer", "admin", "super_admin"];
const admitted = {
  [Access.UNSPECIFIED]: [],
  [Access.PUBLIC]: ["nobody", "key", "service", "otherService", ...people],
  [Access.USER]: people,
  [Access.DEVELOPER]: people.slice(1),
  [Access.ADMIN]: people.slice(2),
  [Access.SUPER_ADMIN]: people.slice(3),
  [Access.API_KEY]: ["key"],
  [Access.USER_OR_API_KEY]: ["key", ...people],
  [Access.SERVICE]: ["service", ...people.slice(2)],
  [Access.METRICS_KEY]: [],
  [Access.CREDENTIAL]: ["key", "service", ...people],
} satisfies Record<Access, string[]>;

const rows = Object.entries(admitted).flatMap(([access, names]) =>
  Object.keys(callers).map((caller) => ({
    access: Number(access) as Access,
    caller,
    admits: (names as string[]).includes(caller),
  })),
);

test.for(rows)("access $access admits $caller: $admits", ({ access, caller, admits }) => {
  const policy = { access, auditAction: "", scope: "keys.verify" };
  const check = () => checkAccess(policy, callers[caller]);

  if (admits) {
    expect(check).not.toThrow();
  } else {
    const code = caller === "nobody" ? Code.Unauthenticated : Code.PermissionDenied;
    expect(codeOf(check)).toBe(code);
  }
});

test("a method that names no scope is for no service", () => {
  const check = () => checkAccess({ access: Access.SERVICE, auditAction: "" }, service("", "x"));

  expect(codeOf(check)).toBe(Code.PermissionDenied);
});

const changes = memberRoles.flatMap((role) =>
  [
    { auditAction: "", personal: false },
    { auditAction: "x.change", personal: false },
    { auditAction: "x.change", personal: true },
  ].map((policy) => ({
    role,
    ...policy,
    may: role !== "viewer" || policy.auditAction === "" || policy.personal,
  })),
);

test.for(changes)(
  "a $role may call what changes '$auditAction' (personal: $personal): $may",
  ({ role, may, ...policy }) => {
    const check = () => checkAccess({ access: Access.USER, ...policy }, person("user", role));

    expect(codeOf(check)).toBe(may ? undefined : Code.PermissionDenied);
  },
);

function codeOf(work: () => void): Code | undefined {
  try {
    work();
  } catch (error) {
    return ConnectError.from(error).code;
  }
  return undefined;
}
