import { isUtf8 } from "node:buffer";
import {
  create,
  type DescField,
  type DescMessage,
  fromJson,
  type JsonObject,
  type JsonValue,
  type MessageShape,
  type Registry,
  toJson,
} from "@bufbuild/protobuf";
import { jsonDepth } from "../../lib/exact-json.ts";
import { BindError } from "./errors.ts";
import { explainJson } from "./json-violations.ts";

/** What JSON needs beyond the message's own type. */
export interface JsonOptions {
  /** Finds the types within google.protobuf.Any. Without it no Any can be read or written. */
  readonly registry?: Registry | undefined;
}

/** Most levels of objects and arrays in a request's body. */
export const jsonDepthMax = 64;

/**
 * Make a message from a request's body: ProtoJSON of the message ("*"), of one field, or
 * (undefined) nothing. An empty body is an empty message. Throws BindError if the body is not
 * UTF-8, not JSON, too deep, has a field that the message lacks, or a value of the wrong type; it
 * names the field.
 */
export function decodeBody<Desc extends DescMessage>(
  desc: Desc,
  body: "*" | DescField | undefined,
  bytes: Uint8Array,
  options: JsonOptions = {},
): MessageShape<Desc> {
  if (bytes.byteLength === 0) {
    return create(desc);
  }
  if (body === undefined) {
    throw bodyError("request takes no body");
  }
  const value = parseJson(bytes);
  const json = body === "*" ? value : { [body.jsonName]: value };
  const { registry } = options;
  try {
    return fromJson(desc, json, { registry });
  } catch {
    throw new BindError(explainJson(desc, json, registry));
  }
}

/**
 * The body of a response: ProtoJSON of the message, or of one field of it. Fields without presence
 * are always there. A field that is not set is an empty object if it is a plain message, else null.
 */
export function encodeBody<Desc extends DescMessage>(
  desc: Desc,
  message: MessageShape<Desc>,
  field: DescField | undefined,
  options: JsonOptions = {},
): string {
  const json = toJson(desc, message, { alwaysEmitImplicit: true, registry: options.registry });
  if (field === undefined) {
    return JSON.stringify(json);
  }
  const value = (json as JsonObject)[field.jsonName];
  return JSON.stringify(value ?? unsetValue(field));
}

function unsetValue(field: DescField): JsonValue {
  return field.fieldKind === "message" && !field.message.typeName.startsWith("google.protobuf.")
    ? {}
    : null;
}

/** Parse a request's body. Throws BindError if it is not UTF-8, not JSON, or too deep. */
export function parseJson(bytes: Uint8Array): JsonValue {
  if (!isUtf8(bytes)) {
    throw bodyError("body is not UTF-8");
  }
  const text = decodeUtf8(bytes);
  // Before parsing, since what recurses over the value later would be the one to run out of stack.
  if (countOf(text, "{") + countOf(text, "[") > jsonDepthMax && jsonDepth(text) > jsonDepthMax) {
    throw bodyError(`body has more than ${jsonDepthMax} levels`);
  }
  try {
    return JSON.parse(text) as JsonValue;
  } catch (error) {
    // The engine's own message quotes the body, which may hold secrets.
    const position = /at position (\d+)/.exec(String(error))?.[1];
    const where = position === undefined ? "" : ` at character ${position}`;
    throw bodyError(`body is not valid JSON${where}`);
  }
}

/** Drops a byte order mark, as a TextDecoder does. */
function decodeUtf8(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString();
  return text.charCodeAt(0) === byteOrderMark ? text.slice(1) : text;
}

const byteOrderMark = 0xfeff;

function countOf(text: string, character: string): number {
  let count = 0;
  for (let at = text.indexOf(character); at >= 0; at = text.indexOf(character, at + 1)) {
    count++;
  }
  return count;
}

function bodyError(description: string): BindError {
  return new BindError([{ field: "", description }]);
}
