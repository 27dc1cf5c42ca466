import { expect, test } from "vitest";
import { chooseEncoding } from "./encoding.ts";

test.for([
  [undefined, undefined],
  ["", undefined],
  ["gzip", "gzip"],
  ["x-gzip", "gzip"],
  ["GZIP", "gzip"],
  ["gzip, deflate, br", "br"],
  ["gzip, deflate, br, zstd", "zstd"],
  ["gzip;q=1.0, br;q=0.5", "gzip"],
  ["zstd;q=0.1, gzip;q=0.2", "gzip"],
  ["gzip;q=0", undefined],
  ["*", "zstd"],
  ["*;q=0", undefined],
  ["*;q=0.5, zstd;q=0", "br"],
  ["gzip;q=0.5, identity;q=0.9", undefined],
  ["gzip;q=0.5, identity;q=0.5", "gzip"],
  ["identity;q=0, gzip", "gzip"],
  ["deflate", undefined],
  ["gzip;q=2", undefined],
  ["gzip;level=9", undefined],
  [",,gzip,", "gzip"],
] as const)("of %j a reply gets %j", ([acceptEncoding, encoding]) => {
  expect(chooseEncoding(acceptEncoding)).toBe(encoding);
});
