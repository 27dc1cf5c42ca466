import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { Access } from "../../gen/callora/policy/v1/policy_pb.ts";
import { checkAccess, type Principal, type Role, roles } from "./principal.ts";

const account = { id: "x_1", accountId: "acc_1" };
const key: Principal = { kind: "key", ...account, apiId: "api_1", mode: "live", scopes: [] };
const service: Principal = { kind: "service", ...account, mode: "live", scopes: [] };
const callers: Readonly<Record<string, Principal | undefined>> = {
  nobody: undefined,
  key,
  service,
  ...Object.fromEntries(roles.map((role) => [role, person(role)])),
};

function person(role: Role): Principal {
  const credential = { credential: "session", credentialId: "ses_1" } as const;
  return { kind: "user", ...account, role, mode: "live", ...credential };
}

const people = ["user", "developer", "admin", "super_admin"];
const admitted = {
  [Access.UNSPECIFIED]: [],
  [Access.PUBLIC]: ["nobody", "key", "service", ...people],
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
  const check = () => checkAccess(access, callers[caller]);

  if (admits) {
    expect(check).not.toThrow();
  } else {
    const code = caller === "nobody" ? Code.Unauthenticated : Code.PermissionDenied;
    expect(codeOf(check)).toBe(code);
  }
});

function codeOf(work: () => void): Code | undefined {
  try {
    work();
  } catch (error) {
    return ConnectError.from(error).code;
  }
  return undefined;
}
