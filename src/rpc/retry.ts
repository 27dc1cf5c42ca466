import { createHash } from "node:crypto";
import { toBinary } from "@bufbuild/protobuf";
import type { ContextValues } from "@connectrpc/connect";
import { callOf } from "./call.ts";
import { invalidArgument } from "./errors.ts";

/** What makes a call a retry of an earlier one. */
export interface Retry {
  method: string;
  /** Chosen by the caller. Empty: every call is a new one. */
  key: string;
  requestHash: Buffer;
}

/**
 * The `Idempotency-Key` header, else the message's `request_id`.
 *
 * Throws INVALID_ARGUMENT for a header that is not 1 to 255 characters of `A-Za-z0-9._:-`.
 */
export function retryOf(context: { values: ContextValues }): Retry {
  const { name, header, request } = callOf(context);
  if (request === undefined) {
    throw new Error(`Cannot retry ${name}: its request is streamed`);
  }
  const { desc, message } = request;
  const requestId = "requestId" in message ? String(message.requestId) : "";
  const key = header.get("idempotency-key") ?? requestId;
  if (key !== "" && !/^[A-Za-z0-9._:-]{1,255}$/.test(key)) {
    const description = "must be 1 to 255 characters of A-Z a-z 0-9 . _ : -";
    throw invalidArgument([{ field: "Idempotency-Key", description }]);
  }
  const requestHash = createHash("sha256").update(toBinary(desc, message)).digest();
  return { method: name, key, requestHash };
}
