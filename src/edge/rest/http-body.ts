import { create, type DescField, type DescMessage, type Message } from "@bufbuild/protobuf";
import { type HttpBody, HttpBodySchema } from "../../../gen/google/api/httpbody_pb.ts";
import { getField, setField } from "./field-path.ts";

/**
 * Whether a body is raw bytes of any type, never JSON: the message, or the field of it that a
 * rule's `body` or `response_body` names, is a google.api.HttpBody. Undefined stands for no field:
 * pass it for a response without `response_body`, never for a request without `body`.
 */
export function isHttpBody(desc: DescMessage, field: "*" | DescField | undefined): boolean {
  if (field === undefined || field === "*") {
    return desc.typeName === HttpBodySchema.typeName;
  }
  return field.fieldKind === "message" && field.message.typeName === HttpBodySchema.typeName;
}

/** Put a request's raw bytes and Content-Type into the HttpBody that isHttpBody() has found. */
export function setHttpBody(
  message: Message,
  field: "*" | DescField,
  body: { readonly contentType: string; readonly data: Uint8Array },
): void {
  if (field === "*") {
    Object.assign(message, body);
  } else {
    const target = message as unknown as Record<string, unknown>;
    setField(target, field, create(HttpBodySchema, body));
  }
}

/** The raw bytes and Content-Type of a response whose body isHttpBody() has found. */
export function getHttpBody(
  message: Message,
  field: DescField | undefined,
): { contentType: string; data: Uint8Array } {
  const found = field ? getField(message as unknown as Record<string, unknown>, field) : message;
  const { contentType, data } = (found as HttpBody | undefined) ?? create(HttpBodySchema);
  return { contentType: contentType || "application/octet-stream", data };
}
