import { Code } from "@connectrpc/connect";
import { isNumberLiteral, parseExactJson } from "../lib/exact-json.ts";
import { dataDepthMax } from "../lib/json-path.ts";
import { invalidArgument, RouteError, reasoned } from "../rpc/errors.ts";
import {
  type Attributes,
  type Check,
  isObject,
  type ReadEvent,
  toUsageEvent,
} from "./cloud-event-attributes.ts";

/** Most events of a batch. */
const eventsMax = 500;

/** How deep a batch may be: a list of events, which hold their data. */
const batchDepthMax = dataDepthMax + 2;

/** A request of the HTTP protocol binding of CloudEvents 1.0. */
export interface CloudEventsRequest {
  /** As they came, names in lower case: one that came twice is there twice. */
  headers: readonly (readonly [name: string, value: string])[];
  body: Uint8Array;
}

/**
 * Read the events of a request: structured (one as JSON), batched (a JSON list of them) or binary (the attributes in
 * headers, the data in the body).
 *
 * Throws a RouteError 415 for another media type, INVALID_ARGUMENT for a body that holds no events at all.
 */
export async function readCloudEvents(request: CloudEventsRequest): Promise<ReadEvent[]> {
  const headers = new Map(request.headers);
  const contentType = readMediaType(headers.get("content-type") ?? "");
  const mode = modeOf(contentType.type, headers);
  if (mode !== "binary" && contentType.charset !== "utf-8") {
    throw unsupported("charset must be utf-8");
  }
  // It takes 14 MB and a tenth of a second, and only a server that receives CloudEvents needs it.
  const { CloudEvent } = await import("cloudevents");
  const check = (attributes: Attributes) => new CloudEvent(attributes, true);
  if (mode === "binary") {
    return [readBinary(request, check)];
  }
  const value = parseBody(request.body);
  const list = Array.isArray(value) ? value : [value];
  if (Array.isArray(value) !== (mode === "batch") && mode !== "either") {
    throw refused(mode === "batch" ? "must be a list of events" : "must be one event");
  }
  if (list.length > eventsMax) {
    throw refused(`must hold up to ${eventsMax} events`);
  }
  return list.map((one) => readStructured(one, check));
}

type ContentMode = "structured" | "batch" | "either" | "binary";

const modes: Readonly<Record<string, ContentMode>> = {
  "application/cloudevents+json": "structured",
  "application/cloudevents-batch+json": "batch",
};

function modeOf(type: string, headers: ReadonlyMap<string, string>): ContentMode {
  const mode = modes[type];
  if (mode !== undefined) {
    return mode;
  }
  // In another format than JSON an event is not binary for that.
  if (headers.has("ce-specversion") && !type.startsWith("application/cloudevents")) {
    return "binary";
  }
  if (type === "application/json") {
    return "either";
  }
  throw unsupported(`Content-Type must be ${Object.keys(modes).join(" or ")}`);
}

/** Without its parameters but the charset. Both in lower case. */
function readMediaType(text: string): { type: string; charset: string } {
  const type = text.replace(/;.*$/s, "").trim().toLowerCase();
  const charset = /;\s*charset\s*=\s*"?([^\s";]+)/i.exec(text)?.[1]?.toLowerCase() ?? "utf-8";
  return { type, charset: charset === "utf8" ? "utf-8" : charset };
}

function parseBody(body: Uint8Array): unknown {
  try {
    return parseExactJson(decodeUtf8(body), { depthMax: batchDepthMax });
  } catch {
    throw refused(`must be JSON in UTF-8, at most ${batchDepthMax} levels deep`);
  }
}

function readStructured(value: unknown, check: Check): ReadEvent {
  if (!isObject(value)) {
    return wrong("", "must be a JSON object");
  }
  const { data, data_base64: base64, ...rest } = value;
  const attributes: Attributes = Object.fromEntries(
    Object.entries(rest)
      // Null is the same as absent.
      .filter(([, attribute]) => attribute !== null)
      .map(([name, attribute]) => [
        name,
        isNumberLiteral(attribute) ? Number(attribute.rawJSON) : attribute,
      ]),
  );
  if (base64 === undefined || base64 === null) {
    return toUsageEvent(attributes, data, check);
  }
  if (data !== undefined && data !== null) {
    return wrong("data_base64", "must not be there beside data");
  }
  const bytes = typeof base64 === "string" ? fromBase64(base64) : undefined;
  return bytes === undefined
    ? wrong("data_base64", "must be base64")
    : toUsageEvent(attributes, parseData(bytes), check);
}

function readBinary({ headers, body }: CloudEventsRequest, check: Check): ReadEvent {
  const attributes = new Map<string, string>();
  for (const [header, value] of headers) {
    if (header.startsWith("ce-")) {
      const name = header.slice("ce-".length);
      const text = decodeHeader(value);
      if (text === undefined) {
        return wrong(name, "must be printable ASCII, with the rest percent-encoded as UTF-8");
      }
      if (attributes.has(name)) {
        return wrong(name, "must not be there twice");
      }
      if (name === "data") {
        return wrong(name, "must be the body");
      }
      attributes.set(name, text);
    }
  }
  const contentType = new Map(headers).get("content-type");
  if (contentType !== undefined) {
    attributes.set("datacontenttype", contentType);
  }
  return toUsageEvent(Object.fromEntries(attributes), parseData(body), check);
}

/** Undo quotes and percent-encoding, as section 3.1.3.2 of the binding says. Undefined: it cannot be undone. */
function decodeHeader(value: string): string | undefined {
  if (!/^[\x20-\x7e]*$/.test(value)) {
    return undefined;
  }
  const quoted = /^"((?:[^"\\]|\\.)*)"$/.exec(value);
  const text = quoted === null ? value : (quoted[1] ?? "").replace(/\\(.)/g, "$1");
  try {
    // Refuses what is not UTF-8, and a percent sign that begins nothing: two texts must not be one identity.
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** Data that is no JSON is there, but no object: it is refused with the rest of the event. */
function parseData(bytes: Uint8Array): unknown {
  if (bytes.byteLength === 0) {
    return undefined;
  }
  try {
    return parseExactJson(decodeUtf8(bytes), { depthMax: dataDepthMax });
  } catch {
    return "no JSON";
  }
}

function fromBase64(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, "base64");
  return bytes.toString("base64") === text ? bytes : undefined;
}

/** Throws TypeError when it is no UTF-8. */
function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
}

function wrong(field: string, description: string): ReadEvent {
  return { violations: [{ field, description }] };
}

function refused(description: string) {
  return invalidArgument([{ field: "body", description }]);
}

function unsupported(what: string): RouteError {
  const message = `Cannot read body: ${what}`;
  const reason = "MEDIA_TYPE_UNSUPPORTED";
  return new RouteError(415, reasoned(Code.InvalidArgument, { reason, message }));
}
