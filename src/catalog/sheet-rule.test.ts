import { expect, test } from "vitest";
import { defaultRuleText, ruleTextOf } from "./sheet-rule.ts";

const sheet = JSON.stringify({
  rule: "own",
  routes: [
    [["GET", "PUT"], "/a", "get"],
    [[], "/a", "any"],
    [["POST"], "/b", ""],
  ],
});

test.for([
  ["GET /a", "get"],
  ["PUT /a", "get"],
  ["HEAD /a", "get"],
  ["POST /a", "any"],
  ["POST /b", "own"],
  ["GET /c", "own"],
  ["", "own"],
] as const)("the rule of %s is %s", ([endpoint, rule]) => {
  expect(ruleTextOf(sheet, endpoint)).toBe(rule);
  expect(ruleTextOf("", endpoint)).toBe("");
});

test("the rule of a sheet itself", () => {
  expect([defaultRuleText(sheet), defaultRuleText("")]).toEqual(["own", ""]);
});
