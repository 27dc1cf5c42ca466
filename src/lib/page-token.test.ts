import { expect, test } from "vitest";
import { decodePageToken, encodePageToken, splitPage } from "./page-token.ts";

test("a token gives back the id that it was made of", () => {
  const id = "key_01k805gh12kgqtj91a5mt623s7";

  expect(decodePageToken(encodePageToken(id))).toBe(id);
  expect(decodePageToken("")).toBe("");
});

test.for([
  "zzz",
  "[]",
  '["v1"]',
  '["v2","a"]',
  '["v1","a","b"]',
  '["v1",1]',
  '["v1",""]',
  '["v1","\\u0000"]',
  '["v1","a b"]',
  "{}",
  "null",
])("%s in a token is refused", (json) => {
  expect(decodePageToken(Buffer.from(json).toString("base64url"))).toBeNull();
});

test("a page has the rows asked for, and a token when there are more", () => {
  const id = (row: string) => row;

  expect(splitPage(["c", "b", "a"], { size: 2, id })).toEqual({
    page: ["c", "b"],
    nextPageToken: encodePageToken("b"),
  });
  expect(splitPage(["c", "b"], { size: 2, id })).toEqual({ page: ["c", "b"], nextPageToken: "" });
  expect(splitPage([], { size: 2, id })).toEqual({ page: [], nextPageToken: "" });
});
