import { expect, test } from "vitest";
import { apiKeyOf, bearerToken } from "./credentials.ts";

test.for([
  ["Bearer abc", "abc"],
  ["bearer abc", "abc"],
  ["Bearer   abc ", "abc"],
  ["Bearer", undefined],
  ["Bearer ", undefined],
  ["Bearer a b", undefined],
  ["Basic abc", undefined],
  ["abc", undefined],
  ["XBearer abc", undefined],
] as const)("the token of %j is %j", ([authorization, token]) => {
  expect(bearerToken(new Headers({ authorization }))).toBe(token);
});

test("X-API-Key goes before the bearer token", () => {
  const headers = new Headers({ authorization: "Bearer b", "x-api-key": "k" });

  expect(apiKeyOf(headers)).toBe("k");
  expect(apiKeyOf(new Headers({ authorization: "Bearer b" }))).toBe("b");
  expect(apiKeyOf(new Headers())).toBeUndefined();
});
