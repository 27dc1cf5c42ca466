import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { FreeOn, PriceRuleSchema, RouteSchema } from "../../gen/callora/catalog/v1/price_pb.ts";
import { parseRule, ruleText } from "./price-rule.ts";
import { checkSheet, parseSheet, type Sheet, sheetMessages, sheetOf, sheetText } from "./sheet.ts";

// So few that no call is too dear.
const nanos = fc.bigInt({ min: 0n, max: 900_000n });
const source = fc.option(
  fc.oneof(
    fc.record({ header: fc.constantFrom("x-units", "x-tokens"), missing: nanos }),
    fc.record({ path: fc.constantFrom("$.usage.total", "$.n"), missing: nanos }),
  ),
);
const ends = fc.uniqueArray(fc.bigInt({ min: 1n, max: 1_000_000n }), { maxLength: 4 });
const tiers = fc.option(fc.tuple(ends, nanos)).map((found) => {
  const [some, price] = found ?? [[], 0n];
  const sorted = some.toSorted((a, b) => (a < b ? -1 : 1));
  return found === null ? [] : [...sorted, null].map((lastUnit) => ({ lastUnit, nanos: price }));
});
const rule = fc.record({
  callNanos: nanos,
  tiers,
  mode: fc.constantFrom("graduated" as const, "volume" as const),
  span: fc.constantFrom("call" as const, "month" as const),
  per: nanos.filter((n) => n > 0n),
  unitsMax: nanos.filter((n) => n > 0n),
  source,
  free: fc.integer({ min: 1, max: 15 }),
});
const method = fc.constantFrom("GET", "POST", "PUT", "DELETE");
const route = fc.record({
  methods: fc.uniqueArray(method).map((methods) => methods.toSorted()),
  path: fc.constantFrom("/", "/a", "/a/{b}", "/c/{d=**}"),
  rule: fc.option(rule),
});
const sheet: fc.Arbitrary<Sheet> = fc.record({
  rule: fc.option(rule),
  routes: fc.array(route, { maxLength: 5 }),
});

test("a sheet comes back from its text, and from its messages", () => {
  fc.assert(
    fc.property(sheet, (one) => {
      expect(parseSheet(sheetText(one))).toEqual(one);
      const { rule: message, routes } = sheetMessages(one);
      expect(sheetOf({ rule: message, routes })).toEqual(one);
    }),
  );
});

test("a sheet that says nothing has no text", () => {
  expect(sheetText({ rule: null, routes: [] })).toBe("");
  expect(parseSheet("")).toEqual({ rule: null, routes: [] });
});

test("equal sheets have equal texts, however they were sent", () => {
  const short = create(PriceRuleSchema, { callNanos: 5n });
  const long = create(PriceRuleSchema, {
    callNanos: 5n,
    unitsPerPrice: 1n,
    unitsMax: 1n,
    freeOn: [FreeOn.TIMEOUT, FreeOn.SERVER_ERROR],
  });
  const [one, other] = [
    ["GET", "POST"],
    ["POST", "GET"],
  ].map((methods) => create(RouteSchema, { methods, path: "/a" }));

  expect(sheetText(sheetOf({ rule: long, routes: [one as never] }))).toBe(
    sheetText(sheetOf({ rule: short, routes: [other as never] })),
  );
});

test("the rule of a sheet is the text that calls are pinned with", () => {
  const text = ruleText(parseRule('["7",[],"graduated","call","1","1",null,5]'));

  expect(JSON.parse(sheetText({ rule: parseRule(text), routes: [] })).rule).toBe(text);
});

test.for([
  ["/v1/", "routes[1].path"],
  ["/a", "routes[1].path"],
] as const)("route %s after /a is refused at %s", ([path, field]) => {
  const routes = ["/a", path].map((one) => create(RouteSchema, { path: one }));

  expect(checkSheet({ rule: undefined, routes }, "routes")).toMatchObject([{ field }]);
});

test("a sheet that takes too many bytes is refused", () => {
  const price = create(PriceRuleSchema, {
    tiers: Array.from({ length: 16 }, (_, index) => ({
      lastUnit: BigInt((index + 1) % 16),
      nanos: 1n,
    })),
  });
  const routes = Array.from({ length: 200 }, (_, index) =>
    create(RouteSchema, { path: `/${"x".repeat(190)}${index}`, price }),
  );

  expect(checkSheet({ rule: undefined, routes }, "routes")).toMatchObject([{ field: "routes" }]);
});
