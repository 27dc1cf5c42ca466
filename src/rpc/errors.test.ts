import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { BadRequestSchema, ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { BusyError } from "../lib/semaphore.ts";
import { invalidArgument, notFound, RouteError, rateLimited, toConnectError } from "./errors.ts";

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
