import { expect, test } from "vitest";
import { decodeSegment, decodeSegments, PathError, splitTarget } from "./path.ts";

test.for([
  ["/a/b", "/a/b", ""],
  ["/a?x=1&y=?", "/a", "x=1&y=?"],
  ["/a?", "/a", ""],
  ["/", "/", ""],
  ["http://host/a?x", "/a", "x"],
  ["HTTPS://host:1/a/b", "/a/b", ""],
  ["http://host", "/", ""],
  ["http://host?x=/y", "/", "x=/y"],
  ["/http://host/a", "/http://host/a", ""],
  ["/a%3Fb?c", "/a%3Fb", "c"],
  ["*", "*", ""],
] as const)("splitTarget cuts %s", ([target, path, query]) => {
  expect(splitTarget(target)).toEqual({ path, query });
});

test.for([
  ["plain", "plain", "plain"],
  ["a%20b", "a b", "a b"],
  ["a+b", "a+b", "a+b"],
  ["a%2Fb", "a/b", "a%2Fb"],
  ["a%2fb", "a/b", "a%2fb"],
  ["a%2Fb%20c%2fd", "a/b c/d", "a%2Fb c%2fd"],
  ["a/b", "a/b", "a/b"],
  ["%3A%40", ":@", ":@"],
  ["caf%C3%A9", "café", "café"],
  ["%F0%9F%98%80", "😀", "😀"],
  ["%252F", "%2F", "%2F"],
  ["..", "..", ".."],
  ["", "", ""],
] as const)("%s decodes as one segment and as several", ([raw, single, several]) => {
  expect(decodeSegment(raw)).toBe(single);
  expect(decodeSegments(raw)).toBe(several);
});

test.for([
  ["%", "broken"],
  ["a%2", "broken"],
  ["%zz", "broken"],
  ["%2F%", "broken"],
  ["%ff", "UTF-8"],
  ["%C3%28", "UTF-8"],
  ["%ED%A0%80", "UTF-8"],
  ["%C0%AF", "UTF-8"],
  ["caf\u00e9", "percent-encoded"],
  ["a\u0000b", "percent-encoded"],
  ["a b", "percent-encoded"],
] as const)("%s is refused with a typed error", ([raw, reason]) => {
  expect(() => decodeSegment(raw)).toThrow(PathError);
  expect(() => decodeSegments(raw)).toThrow(PathError);
  expect(() => decodeSegment(raw)).toThrow(reason);
});
