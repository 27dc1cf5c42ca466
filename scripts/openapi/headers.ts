import type { DescMethod, JsonObject } from "@bufbuild/protobuf";
import type { PolicyText } from "./contract.ts";

/** The headers of replies, by the names under which operations refer to them. */
export const headerComponents: JsonObject = {
  RequestId: {
    description: "Names the call in the logs: the request's own `X-Request-Id`, or a new one.",
    schema: { type: "string" },
  },
  RateLimitLimit: {
    description: "Calls that the caller may make at once.",
    schema: { type: "integer", minimum: 0 },
  },
  RateLimitRemaining: {
    description: "Calls that are left of them now.",
    schema: { type: "integer", minimum: 0 },
  },
  RateLimitReset: {
    description: "Seconds until all of them are back.",
    schema: { type: "integer", minimum: 0 },
  },
  ETag: {
    description:
      "Stands for the reply's content. Sent as `If-None-Match` it is answered 304, as long as " +
      "that is the same.",
    schema: { type: "string" },
  },
  RetryAfter: {
    description: "Seconds after which to try again.",
    schema: { type: "integer", minimum: 0 },
  },
};

const requestId: JsonObject = { "X-Request-Id": referTo("RequestId") };

const rateLimit: JsonObject = {
  "X-RateLimit-Limit": referTo("RateLimitLimit"),
  "X-RateLimit-Remaining": referTo("RateLimitRemaining"),
  "X-RateLimit-Reset": referTo("RateLimitReset"),
};

/** The headers of every reply of an operation. */
export function replyHeaders(policy: PolicyText | undefined): JsonObject {
  return isLimited(policy) ? { ...requestId, ...rateLimit } : requestId;
}

/** The headers of an operation's successful replies. */
export function successHeaders(policy: PolicyText | undefined): JsonObject {
  const headers = replyHeaders(policy);
  return policy?.isValidated === true ? { ...headers, ETag: referTo("ETag") } : headers;
}

/** The answer to whoever has the reply already. */
export function notModifiedResponses(policy: PolicyText | undefined): JsonObject {
  const description = "The reply is the one that `If-None-Match` names.";
  return policy?.isValidated === true
    ? { 304: { description, headers: successHeaders(policy) } }
    : {};
}

/** The header by which a reader says which replies it has. */
export function validatorParameters(policy: PolicyText | undefined): JsonObject[] {
  return policy?.isValidated === true ? [ifNoneMatch] : [];
}

const ifNoneMatch: JsonObject = {
  name: "If-None-Match",
  in: "header",
  description: "The `ETag` of a reply that the reader has, or several of them.",
  schema: { type: "string" },
};

/** The error responses of an operation, by status. */
export function errorResponses(policy: PolicyText | undefined): JsonObject {
  return {
    ...(isLimited(policy) && { 429: { $ref: "#/components/responses/TooManyRequests" } }),
    503: { $ref: "#/components/responses/Unavailable" },
    default: { $ref: "#/components/responses/Error" },
  };
}

/** The error responses that operations refer to, all with the same content. */
export function responseComponents(content: JsonObject): JsonObject {
  const retryAfter = { "Retry-After": referTo("RetryAfter") };
  return {
    Error: {
      description: "The call failed. The HTTP status follows from `code`.",
      headers: requestId,
      content,
    },
    TooManyRequests: {
      description: "The caller has made too many calls.",
      headers: { ...requestId, ...rateLimit, ...retryAfter },
      content,
    },
    Unavailable: {
      description: "The server, or what it needs, cannot take the call now.",
      headers: { ...requestId, ...retryAfter },
      content,
    },
  };
}

/** The header by which a create is made once, whatever its retries. None for other methods. */
export function idempotencyParameters({ input }: DescMethod, method: string): JsonObject[] {
  const isCreate = method === "POST" && input.fields.some(({ name }) => name === "request_id");
  return isCreate ? [idempotencyKey] : [];
}

const idempotencyKey: JsonObject = {
  name: "Idempotency-Key",
  in: "header",
  description:
    "Chosen by the caller, and takes the place of `request_id`. For 24 hours a retry with the same " +
    "key and body has the first answer again, without what is shown once. With another body it " +
    "is INVALID_ARGUMENT, with reason IDEMPOTENCY_KEY_REUSED; while the first call runs it is " +
    "ABORTED, with reason IDEMPOTENCY_KEY_IN_FLIGHT.",
  schema: { type: "string", pattern: "^[A-Za-z0-9._:-]{1,255}$" },
};

function referTo(name: string): JsonObject {
  return { $ref: `#/components/headers/${name}` };
}

const unlimited: ReadonlySet<string> = new Set(["UNSPECIFIED", "NONE", "INTERNAL"]);

function isLimited(policy: PolicyText | undefined): boolean {
  return policy !== undefined && !unlimited.has(policy.rateClass);
}
