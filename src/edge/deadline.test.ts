import { expect, test } from "vitest";
import { deadlineOf } from "./deadline.ts";
import { HttpError } from "./rest/errors.ts";

test.for([
  [{}, undefined],
  [{ "grpc-timeout": "5S" }, 5_000],
  [{ "grpc-timeout": "250m" }, 250],
  [{ "grpc-timeout": "1n" }, 1],
  [{ "grpc-timeout": "99999999H" }, 3_600_000],
  [{ "connect-timeout-ms": "0" }, 0],
  [{ "connect-timeout-ms": "9999999999" }, 3_600_000],
  [{ "x-server-timeout": "1.5" }, 1_500],
  [{ "x-server-timeout": ".25" }, 250],
  [{ "x-server-timeout": "2." }, 2_000],
  [{ "x-server-timeout": "7", "connect-timeout-ms": "2" }, 2],
  [{ "x-server-timeout": "7", "connect-timeout-ms": "2", "grpc-timeout": "3m" }, 3],
] as const)("%j means %j ms", ([headers, timeoutMs]) => {
  expect(deadlineOf(headers)).toBe(timeoutMs);
});

test.for([
  { "grpc-timeout": "5" },
  { "grpc-timeout": "123456789S" },
  { "grpc-timeout": "-1S" },
  { "grpc-timeout": "1s" },
  { "grpc-timeout": "", "connect-timeout-ms": "1" },
  { "connect-timeout-ms": "1.5" },
  { "connect-timeout-ms": "12345678901" },
  { "x-server-timeout": "-1" },
  { "x-server-timeout": "1e3" },
  { "x-server-timeout": "Infinity" },
  { "x-server-timeout": ["1", "2"] },
])("%j is refused", (headers) => {
  expect(() => deadlineOf(headers)).toThrow(HttpError);
});
