import fc from "fast-check";
import { expect, test } from "vitest";
import { isAllowed, type Permission, PermissionError, parsePermission } from "./permission.ts";

test.for([
  ["a.read", ["a.read"], true],
  ["a.read", ["a.write"], false],
  ["a.read", ["a"], false],
  ["a", ["a.read"], false],
  ["a.read", [], false],
  ["a.read", ["a.*"], true],
  ["a.b.read", ["a.*"], true],
  ["a", ["a.*"], false],
  ["ab.read", ["a.*"], false],
  ["anything", ["*"], true],
  ["c.*", ["c.read"], true],
  ["c.*", ["c.x.y"], true],
  ["c.*", ["c.*"], true],
  ["c.*", ["*"], true],
  ["c.x.*", ["c.*"], true],
  ["c.*", ["c"], false],
  ["c.*", ["cc.read"], false],
  ["*", ["x"], true],
  ["*", [], false],
  ["a OR b", ["b"], true],
  ["a AND b", ["b"], false],
  ["a AND b", ["b", "a"], true],
  ["a OR b AND c", ["a"], true],
  ["a OR b AND c", ["b"], false],
  ["(a OR b) AND c", ["a"], false],
  ["(a OR b) AND c", ["a", "c"], true],
  ["a.read AND (b.write OR c.*)", ["a.read", "c.any"], true],
  ["a.read AND (b.write OR c.*)", ["a.read", "b.read"], false],
  ["  a.read\tand( b.write or c.* )\n", ["a.read", "b.write"], true],
  ["((((a))))", ["a"], true],
  ["android OR order", ["order"], true],
] as const)('"%s" with %j: %s', ([text, scopes, allowed]) => {
  expect(isAllowed(parsePermission(text), scopes)).toBe(allowed);
});

test.for([
  ["", "a name at character 1"],
  ["   ", "a name at character 4"],
  ["AND", "a name at character 1"],
  ["a AND", "a name at character 6"],
  ["a b", "AND, OR or the end at character 3"],
  ["a OR OR b", "a name at character 6"],
  ["(a", "a closing parenthesis at character 3"],
  ["a)", "AND, OR or the end at character 2"],
  ["()", "a name at character 2"],
  ["a..b", "a name at character 1"],
  [".a", "a name at character 1"],
  ["a.*.b", "a name at character 1"],
  ["a*", "a name at character 1"],
  ["a && b", "AND, OR or the end at character 3"],
  ["a AND 'b'", "a name at character 7"],
  ["é", "a name at character 1"],
] as const)('"%s" is refused: it must have %s', ([text, wanted]) => {
  expect(() => parsePermission(text)).toThrow(wanted);
  expect(() => parsePermission(text)).toThrow(PermissionError);
});

test("parentheses nest 16 deep, and an expression has 1000 characters", () => {
  const nested = (depth: number) => `${"(".repeat(depth)}a${")".repeat(depth)}`;

  expect(isAllowed(parsePermission(nested(16)), ["a"])).toBe(true);
  expect(() => parsePermission(nested(17))).toThrow("at most 16 deep");
  expect(isAllowed(parsePermission("a".repeat(1000)), ["a".repeat(1000)])).toBe(true);
  expect(() => parsePermission("a".repeat(1001))).toThrow("at most 1000 characters");
});

test("whatever is written down is read as what it was", () => {
  fc.assert(
    fc.property(expressions, fc.subarray(names), (permission, scopes) => {
      const read = parsePermission(write(permission));

      expect(isAllowed(read, scopes)).toBe(holds(permission, scopes));
    }),
  );
});

test("any text is read or refused, and nothing else", () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(..."ab.*() ANDOR\n") }), (text) => {
      try {
        parsePermission(text);
      } catch (error) {
        expect(error).toBeInstanceOf(PermissionError);
      }
    }),
  );
});

const names = ["a", "b.read", "b.write", "c.x", "c.y.z"];

const { expressions } = fc.letrec<{ expressions: Permission }>((tie) => ({
  expressions: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom(...names).map((name) => ({ kind: "name" as const, name })),
    fc.constantFrom("", "b.", "c.", "c.y.").map((prefix) => ({ kind: "below" as const, prefix })),
    fc.record({
      kind: fc.constantFrom("all" as const, "any" as const),
      parts: fc.array(tie("expressions"), { minLength: 1, maxLength: 3 }),
    }),
  ),
}));

function write(permission: Permission): string {
  switch (permission.kind) {
    case "name":
      return permission.name;
    case "below":
      return `${permission.prefix}*`;
    default:
      return `(${permission.parts.map(write).join(permission.kind === "all" ? " AND " : " OR ")})`;
  }
}

/** The meaning, said another way: with plain sets of scopes that have no wildcards. */
function holds(permission: Permission, scopes: readonly string[]): boolean {
  switch (permission.kind) {
    case "name":
      return scopes.includes(permission.name);
    case "below":
      return scopes.some((scope) => scope.indexOf(permission.prefix) === 0);
    case "all":
      return !permission.parts.some((part) => !holds(part, scopes));
    case "any":
      return !permission.parts.every((part) => !holds(part, scopes));
  }
}
