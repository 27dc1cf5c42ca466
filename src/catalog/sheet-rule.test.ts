import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { PriceRuleSchema } from "../../gen/callora/catalog/v1/price_pb.ts";
import { parseRule, ruleOf } from "./price-rule.ts";
import { sheetText } from "./sheet.ts";
import { ruleTextOf } from "./sheet-rule.ts";

function rule(callNanos: bigint) {
  return ruleOf(create(PriceRuleSchema, { callNanos }));
}

const sheet = sheetText({
  rule: rule(1n),
  routes: [
    { methods: ["GET", "PUT"], path: "/a", rule: rule(2n) },
    { methods: [], path: "/a", rule: rule(3n) },
    { methods: ["POST"], path: "/b", rule: null },
  ],
});

test.for([
  ["GET /a", 2n],
  ["PUT /a", 2n],
  ["HEAD /a", 2n],
  ["POST /a", 3n],
  ["POST /b", 1n],
  ["GET /c", 1n],
  ["", 1n],
] as const)("a call of %s costs %s", ([endpoint, nanos]) => {
  expect(parseRule(ruleTextOf(sheet, endpoint)).callNanos).toBe(nanos);
  expect(ruleTextOf("", endpoint)).toBe("");
});
