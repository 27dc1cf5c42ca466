import { create, createRegistry, toBinary } from "@bufbuild/protobuf";
import { DurationSchema, StructSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "../../../gen/google/rpc/error_details_pb.ts";
import { EverythingSchema } from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { BindError, HttpError, type HttpErrorStatus } from "./errors.ts";
import { httpStatusOf, retryAfterSeconds, toConnectError, toErrorReply } from "./status.ts";

const json = { format: "json" } as const;
const errorInfo = {
  desc: ErrorInfoSchema,
  value: { reason: "KEY_REVOKED", domain: "callora" },
};

test.for([
  [Code.Canceled, 499],
  [Code.Unknown, 500],
  [Code.InvalidArgument, 400],
  [Code.DeadlineExceeded, 504],
  [Code.NotFound, 404],
  [Code.AlreadyExists, 409],
  [Code.PermissionDenied, 403],
  [Code.ResourceExhausted, 429],
  [Code.FailedPrecondition, 400],
  [Code.Aborted, 409],
  [Code.OutOfRange, 400],
  [Code.Unimplemented, 501],
  [Code.Internal, 500],
  [Code.Unavailable, 503],
  [Code.DataLoss, 500],
  [Code.Unauthenticated, 401],
  [0 as Code, 500],
  [99 as Code, 500],
] as const)("code %i is status %i", ([code, status]) => {
  expect(httpStatusOf(code)).toBe(status);
  expect(toErrorReply(new ConnectError("x", code), json).status).toBe(status);
});

test("a ConnectError is a google.rpc.Status, its details by type", () => {
  const error = new ConnectError("no such key", Code.NotFound, undefined, [errorInfo]);

  const reply = toErrorReply(error, json);

  expect(reply.headers).toEqual({ "content-type": "application/json" });
  expect(JSON.parse(reply.body)).toEqual({
    code: 5,
    message: "no such key",
    details: [
      {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        reason: "KEY_REVOKED",
        domain: "callora",
      },
    ],
  });
});

test("a ConnectError is a problem when asked for", () => {
  const error = new ConnectError("no such key", Code.NotFound, undefined, [errorInfo]);

  const reply = toErrorReply(error, { format: "problem", instance: "/v1/keys/1" });

  expect(reply).toMatchObject({
    status: 404,
    headers: { "content-type": "application/problem+json" },
  });
  expect(JSON.parse(reply.body)).toEqual({
    type: "about:blank",
    title: "Not Found",
    status: 404,
    detail: "no such key",
    instance: "/v1/keys/1",
    code: "NOT_FOUND",
    details: [expect.objectContaining({ reason: "KEY_REVOKED" })],
  });
  expect(toErrorReply(error, { format: "problem" }).body).not.toContain("instance");
});

test("details from the wire are shown by the registry, or as base64 if it lacks their type", () => {
  const value = toBinary(ErrorInfoSchema, create(ErrorInfoSchema, { reason: "R" }));
  const error = new ConnectError("x", Code.Aborted);
  error.details.push(
    { type: "google.rpc.ErrorInfo", value },
    { type: "other.v1.Unknown", value: Uint8Array.of(1, 2) },
    { type: "google.rpc.ErrorInfo", value: Uint8Array.of(255) },
  );

  const reply = toErrorReply(error, { ...json, registry: createRegistry(ErrorInfoSchema) });

  expect(JSON.parse(reply.body).details).toEqual([
    { "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "R" },
    { "@type": "type.googleapis.com/other.v1.Unknown", value: "AQI=" },
    { "@type": "type.googleapis.com/google.rpc.ErrorInfo", value: "/w==" },
  ]);
  expect(JSON.parse(toErrorReply(error, json).body).details[0]).toHaveProperty("value");
});

test("details with a JSON form of their own, or with none, do not hide the error", () => {
  const any = { typeUrl: "type.googleapis.com/a.B", value: Uint8Array.of(1) };
  // The one has no JSON, the other no binary form.
  const invalid = { stringValue: 1n as unknown as string, int32Value: "x" as unknown as number };
  const error = new ConnectError("x", Code.Aborted, undefined, [
    { desc: DurationSchema, value: { seconds: 5n } },
    { desc: StructSchema, value: { fields: {} } },
    { desc: EverythingSchema, value: { any } },
    { desc: EverythingSchema, value: invalid },
  ]);

  const { details } = JSON.parse(toErrorReply(error, json).body);

  expect(details[0]).toEqual({
    "@type": "type.googleapis.com/google.protobuf.Duration",
    value: "5s",
  });
  expect(details[1]).toEqual({ "@type": "type.googleapis.com/google.protobuf.Struct", value: {} });
  expect(details[2].value).toMatch(/^[A-Za-z0-9+/]+=*$/);
  expect(details[3].value).toBe("");
});

test("a BindError is INVALID_ARGUMENT with a BadRequest", () => {
  const error = new BindError([{ field: "page_size", description: "must be a 32-bit integer" }]);

  const reply = toErrorReply(error, json);

  expect(reply.status).toBe(400);
  expect(JSON.parse(reply.body)).toEqual({
    code: 3,
    message: 'Cannot read request: "page_size" must be a 32-bit integer',
    details: [
      {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        reason: "REQUEST_INVALID",
        domain: "callora",
      },
      {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        fieldViolations: [{ field: "page_size", description: "must be a 32-bit integer" }],
      },
    ],
  });
  expect(toConnectError(error).findDetails(BadRequestSchema)).toHaveLength(1);
});

test.for([
  [400, 3],
  [404, 5],
  [405, 12],
  [406, 3],
  [413, 8],
  [414, 3],
  [415, 3],
] as const satisfies [HttpErrorStatus, number][])(
  "an HttpError %i keeps its status and headers, with code %i",
  ([status, code]) => {
    const reply = toErrorReply(new HttpError(status, "no", { allow: "GET" }), json);

    expect(reply).toMatchObject({ status, headers: { allow: "GET" } });
    expect(JSON.parse(reply.body)).toMatchObject({ code, message: "no" });
  },
);

test.for([new Error("password=hunter2"), "hunter2", null, undefined, { message: "hunter2" }])(
  "anything else thrown is no more than an internal error: %#",
  (thrown) => {
    for (const format of ["json", "problem"] as const) {
      const reply = toErrorReply(thrown, { format });

      expect(reply.status).toBe(500);
      expect(reply.body).toContain("internal error");
      expect(reply.body).not.toContain("hunter2");
    }
    expect(toConnectError(thrown).cause).toBe(thrown);
  },
);

test.for([
  [{ seconds: 3n }, 3],
  [{ seconds: 3n, nanos: 1 }, 4],
  [{ nanos: 1 }, 1],
  [{}, 0],
  [{ seconds: -3n }, 0],
] as const)(
  "Retry-After is the RetryInfo's delay in whole seconds: %o is %i",
  ([delay, seconds]) => {
    const detail = { desc: RetryInfoSchema, value: { retryDelay: delay } };
    const error = new ConnectError("later", Code.ResourceExhausted, undefined, [detail]);

    expect(toErrorReply(error, json).headers["retry-after"]).toBe(String(seconds));
  },
);

test("without RetryInfo there is no Retry-After", () => {
  const bare = new ConnectError("x", Code.Unavailable, undefined, [
    { desc: RetryInfoSchema, value: {} },
  ]);

  expect(retryAfterSeconds(bare)).toBeUndefined();
  expect(toErrorReply(bare, json).headers).not.toHaveProperty("retry-after");
});
