import { Code, ConnectError } from "@connectrpc/connect";
import { setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { expect, test } from "vitest";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";
import { TrustLostError } from "../db/trust-error.ts";
import { BusyError } from "../lib/semaphore.ts";
import {
  completeError,
  invalidArgument,
  notFound,
  RouteError,
  rateLimited,
  toConnectError,
} from "./errors.ts";

const reasonOf = (error: ConnectError) =>
  error.details.flatMap((detail) =>
    "desc" in detail && detail.desc === ErrorInfoSchema
      ? [(detail.value as { reason: string }).reason]
      : [],
  )[0];

test("what is not meant for callers becomes INTERNAL without its message", () => {
  const error = toConnectError(new Error("password authentication failed for user callora_app"));

  expect(error.code).toBe(Code.Internal);
  expect(error.rawMessage).toBe("internal error");
  expect(reasonOf(error)).toBe("INTERNAL");
});

test.for([
  { code: "40001", what: "a conflict" },
  { code: "40P01", what: "a deadlock" },
  { code: "57014", what: "a cancelled statement" },
  { code: "57P01", what: "a server that stops" },
  { code: "53300", what: "too many connections" },
  { code: "08006", what: "a lost connection" },
  { code: "ECONNREFUSED", what: "no server" },
])("$what ($code) is UNAVAILABLE, worth trying again", ({ code }) => {
  const error = toConnectError(new Error("x", { cause: Object.assign(new Error("y"), { code }) }));

  expect([error.code, reasonOf(error)]).toEqual([Code.Unavailable, "DATABASE_BUSY"]);
});

test.for(["23505", "42501", "22021", ""])("the SQL state %j is no reason to try again", (code) => {
  expect(toConnectError(Object.assign(new Error("x"), { code })).code).toBe(Code.Internal);
});

test("a full queue is UNAVAILABLE", () => {
  expect(toConnectError(new BusyError("full")).code).toBe(Code.Unavailable);
});

test("what cannot be known for want of trust is UNAVAILABLE, and says so", () => {
  const error = toConnectError(new TrustLostError());

  expect([error.code, reasonOf(error)]).toEqual([Code.Unavailable, "TRUST_LOST"]);
});

test("an error made for callers passes as it is", () => {
  const error = notFound("the key");

  expect(toConnectError(error)).toBe(error);
  expect([error.rawMessage, reasonOf(error)]).toEqual(["Cannot find the key", "NOT_FOUND"]);
});

test("INVALID_ARGUMENT names every field, in words and in detail", () => {
  const error = invalidArgument([
    { field: "from", description: "must be a time" },
    { field: "to", description: "must be later" },
  ]);

  expect(error.rawMessage).toBe("from: must be a time; to: must be later");
  expect(error.findDetails(BadRequestSchema)[0]?.fieldViolations.map(({ field }) => field)).toEqual(
    ["from", "to"],
  );
});

test("a rate limit says when to come back, in whole seconds", () => {
  expect(rateLimited(1).rawMessage).toBe("Cannot take more calls: try again in 1 s");
});

test("a RouteError keeps reason and details of its error, and is told from other errors", () => {
  const error = new RouteError(402, notFound("credit"));

  expect(error.httpStatus).toBe(402);
  expect(reasonOf(error)).toBe("NOT_FOUND");
  expect(new ConnectError("x") instanceof RouteError).toBe(false);
  expect(error instanceof RouteError).toBe(true);
});

test("a complete error has a reason, the request's id, and when to try again if that may help", () => {
  const shared = Object.freeze(new ConnectError("the server stops", Code.Unavailable));

  const error = completeError(shared, "req-1");

  expect(error).toMatchObject({ code: Code.Unavailable, rawMessage: "the server stops" });
  expect(error.findDetails(ErrorInfoSchema)).toMatchObject([{ reason: "UNAVAILABLE" }]);
  expect(error.findDetails(RequestInfoSchema)).toMatchObject([{ requestId: "req-1" }]);
  expect(error.findDetails(RetryInfoSchema)).toHaveLength(1);
  expect(shared.details).toEqual([]);
  expect(completeError(error, "req-2")).toBe(error);
});

test("completing keeps the reason and the status that an error has", () => {
  const route = new RouteError(502, rateLimited(1500));

  const error = completeError(route, "req-1");

  expect(error).toBeInstanceOf(RouteError);
  expect((error as RouteError).httpStatus).toBe(502);
  expect(error.findDetails(ErrorInfoSchema)).toMatchObject([{ reason: "RATE_LIMITED" }]);
  expect(error.findDetails(RetryInfoSchema)).toHaveLength(1);
});

test("however much is wrong, what gRPC is told fits the 8 KiB of headers that clients read", () => {
  const violation = { field: "f".repeat(5000), description: "d".repeat(5000) };
  const all = invalidArgument(Array(500).fill(violation));

  const trailer = setTrailerStatus(new Headers(), completeError(all, "r".repeat(128)));

  const size = [...trailer].reduce((sum, [name, value]) => sum + name.length + value.length, 0);
  expect(size).toBeLessThan(8 * 1024 - 1536);
  expect(all.findDetails(BadRequestSchema)[0]?.fieldViolations.length).toBeGreaterThan(5);
});
