import {
  type DescField,
  type DescMessage,
  fromJson,
  type JsonObject,
  type JsonValue,
  type Registry,
} from "@bufbuild/protobuf";
import { type Violation, violationsMax } from "./errors.ts";
import { isPlainMessage, textTypeOf } from "./scalar.ts";

/**
 * Say what is wrong with a JSON value that fromJson() refuses for a message, by field path. Values
 * are not quoted: they may be secrets. Returns at least one violation.
 */
export function explainJson(
  desc: DescMessage,
  json: JsonValue,
  registry: Registry | undefined,
): Violation[] {
  const search: Search = { registry, violations: [] };
  visitMessage(search, desc, json, "");
  if (search.violations.length === 0) {
    report(search, "", `body does not fit ${desc.typeName}`);
  }
  return search.violations;
}

interface Search {
  readonly registry: Registry | undefined;
  readonly violations: Violation[];
}

const keyShownLengthMax = 100;

function visitMessage(search: Search, desc: DescMessage, json: JsonValue, path: string): void {
  if (!isPlainMessage(desc)) {
    if (!fits(() => fromJson(desc, json, { registry: search.registry }))) {
      report(search, path, `must be the JSON form of ${desc.typeName}`);
    }
    return;
  }
  if (!isObject(json)) {
    report(search, path, "must be an object");
    return;
  }
  const seen = new Set<unknown>();
  for (const [key, value] of Object.entries(json)) {
    if (search.violations.length >= violationsMax) {
      return;
    }
    const at = join(path, key);
    const field = desc.fields.find((other) => other.name === key || other.jsonName === key);
    if (field === undefined) {
      if (!isExtension(search, key)) {
        report(search, at, "is not a known field");
      }
    } else if (seen.has(field)) {
      report(search, at, "has more than one value");
    } else if (value !== null && field.oneof !== undefined && seen.has(field.oneof)) {
      report(search, at, "is one of several alternatives, and another is set");
    } else {
      seen.add(field);
      if (value !== null) {
        seen.add(field.oneof);
        visitField(search, field, value, at);
      }
    }
  }
}

function visitField(search: Search, field: DescField, value: JsonValue, path: string): void {
  if (field.message === undefined || !isPlainMessage(field.message)) {
    visitLeaf(search, field, value, path);
    return;
  }
  if (field.fieldKind === "message") {
    visitMessage(search, field.message, value, path);
    return;
  }
  if (field.fieldKind === "list" && !Array.isArray(value)) {
    report(search, path, "must be an array");
    return;
  }
  if (field.fieldKind === "map" && !isObject(value)) {
    report(search, path, "must be an object");
    return;
  }
  for (const [key, item] of Object.entries(value as JsonObject)) {
    if (search.violations.length >= violationsMax) {
      return;
    }
    const at = `${path}[${field.fieldKind === "list" ? key : JSON.stringify(shorten(key))}]`;
    visitMessage(search, field.message, item, at);
  }
}

// One attempt for a whole list or map: an attempt for each item would be slow on a hostile body.
function visitLeaf(search: Search, field: DescField, value: JsonValue, path: string): void {
  const json = { [field.jsonName]: value };
  let item = "";
  const doesFit = fits(
    () => fromJson(field.parent, json, { registry: search.registry }),
    (message) => {
      const number = /list item #(\d+)/.exec(message)?.[1];
      item = number === undefined ? "" : `[${Number(number) - 1}]`;
    },
  );
  if (doesFit) {
    return;
  }
  if (field.fieldKind === "list" && !Array.isArray(value)) {
    report(search, path, "must be an array");
  } else if (field.fieldKind === "map") {
    report(
      search,
      path,
      isObject(value) ? "has a key or value of the wrong type" : "must be an object",
    );
  } else {
    const fallback = `must be the JSON form of ${field.message?.typeName}`;
    report(search, path + item, textTypeOf(field)?.expected ?? fallback);
  }
}

function fits(read: () => unknown, onError?: (message: string) => void): boolean {
  try {
    read();
    return true;
  } catch (error) {
    onError?.(String(error));
    return false;
  }
}

function isExtension({ registry }: Search, key: string): boolean {
  return key.startsWith("[") && registry?.getExtension(key.slice(1, -1)) !== undefined;
}

function isObject(json: JsonValue): json is JsonObject {
  return typeof json === "object" && json !== null && !Array.isArray(json);
}

function join(path: string, key: string): string {
  return path === "" ? shorten(key) : `${path}.${shorten(key)}`;
}

function shorten(key: string): string {
  return key.slice(0, keyShownLengthMax);
}

function report(search: Search, field: string, description: string): void {
  if (search.violations.length < violationsMax) {
    search.violations.push({ field, description });
  }
}
