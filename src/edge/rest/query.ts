import { create, type DescMessage, type Message, type MessageShape } from "@bufbuild/protobuf";
import { BindError, type Violation, violationsMax } from "./errors.ts";
import {
  type FieldPath,
  getField,
  nameOf,
  openParent,
  resolveTextField,
  setField,
  type TextField,
} from "./field-path.ts";

/**
 * What path and body hold already, so that the query must not: everything, or these and all within.
 */
export type Bound = "*" | readonly FieldPath[];

/** Most keys of a query, repeated ones counted each time. */
export const queryKeysMax = 1000;

/**
 * Parameters of Google's API front end, which clients send to any API. Not an error, not a field.
 */
const systemParameters: ReadonlySet<string> = new Set([
  "alt",
  "$alt",
  "key",
  "api_key",
  "prettyPrint",
  "fields",
  "$fields",
  "callback",
  "quotaUser",
]);

// A recursive message has keys without end, and a client chooses which ones are looked up.
const cacheSizeMax = 500;
const keyShownLengthMax = 100;

/** Make a message from a query string. See compileQuery. */
export function bindQuery<Desc extends DescMessage>(
  desc: Desc,
  query: string,
  bound: Bound = [],
): MessageShape<Desc> {
  const message = create(desc);
  compileQuery(desc, bound)(message, query);
  return message;
}

/**
 * Compile the binding of query strings, without "?", to messages of a type. Keys are dotted paths
 * of proto or JSON names; "+" and percent escapes are decoded; repeated fields repeat their key.
 *
 * The result throws BindError with every violation, up to a limit: an unknown or bound key, a value
 * of the wrong form, a second value for a singular field, a second member of a oneof. A field of
 * the message wins over a system parameter of the same name.
 */
export function compileQuery(
  desc: DescMessage,
  bound: Bound,
): (message: Message, query: string) => void {
  const find = createFinder(desc, bound);
  return (message, query) => {
    const violations: Violation[] = [];
    const seen: string[] = [];
    let left = queryKeysMax;
    let end = -1;
    while (end < query.length && violations.length < violationsMax) {
      const start = end + 1;
      end = query.indexOf("&", start);
      end = end < 0 ? query.length : end;
      if (left-- === 0) {
        const description = `query has more than ${queryKeysMax} keys`;
        throw new BindError([{ field: "", description }]);
      }
      if (start === end) {
        continue;
      }
      const mark = query.indexOf("=", start);
      const keyEnd = mark < 0 || mark > end ? end : mark;
      const rawKey = query.slice(start, keyEnd);
      const key = decodeForm(rawKey);
      const text = keyEnd === end ? "" : decodeForm(query.slice(keyEnd + 1, end));
      const violation =
        key === undefined || text === undefined ? broken : bind(find, message, key, text, seen);
      if (violation !== undefined) {
        const field = (key ?? rawKey).slice(0, keyShownLengthMax);
        violations.push({ field, description: violation });
      }
    }
    if (violations.length > 0) {
      throw new BindError(violations);
    }
  };
}

function bind(
  find: Finder,
  root: Message,
  key: string,
  text: string,
  seen: string[],
): string | undefined {
  const field = find(key);
  if (typeof field === "string") {
    return systemParameters.has(key) ? undefined : field;
  }
  return setText(root, field, text, seen);
}

interface QueryField extends TextField {
  /** The same for each spelling of the key. */
  readonly name: string;
}

/** Looks a key up: the field, or the reason why there is none. */
type Finder = (key: string) => QueryField | string;

function createFinder(desc: DescMessage, bound: Bound): Finder {
  const cache = new Map<string, QueryField>();
  return (key) => {
    const cached = cache.get(key);
    if (cached !== undefined) {
      return cached;
    }
    const found = resolveTextField(desc, key.split(".", 100));
    if ("reason" in found) {
      return found.reason;
    }
    if (bound === "*" || bound.some((path) => covers(path, found.path))) {
      return "is not a known field of the query: the path or the body holds it";
    }
    if (bound.some((path) => rivals(path, found.path))) {
      return "is one of several alternatives, and the path or the body holds another";
    }
    const field = { ...found, name: nameOf(found.path) };
    if (cache.size < cacheSizeMax) {
      cache.set(key, field);
    }
    return field;
  };
}

function covers(outer: FieldPath, inner: FieldPath): boolean {
  return outer.every((field, index) => field === inner[index]);
}

// Whether the paths part at two members of one oneof. Only the path's members matter here: what a
// body field has set shows in the message itself.
function rivals(one: FieldPath, other: FieldPath): boolean {
  const index = one.findIndex((field, at) => field !== other[at]);
  const [left, right] = [one[index], other[index]];
  return left?.oneof !== undefined && left.oneof === right?.oneof;
}

function setText(
  root: Message,
  field: QueryField,
  text: string,
  seen: string[],
): string | undefined {
  const { path, leaf, type } = field;
  const value = type.parse(text);
  if (value === undefined) {
    return type.expected;
  }
  if (clashes(root, path)) {
    return "is one of several alternatives, and another is set";
  }
  const parent = openParent(root, path);
  if (leaf.fieldKind === "list") {
    (getField(parent, leaf) as unknown[]).push(value);
    return undefined;
  }
  if (seen.includes(field.name)) {
    return "has more than one value";
  }
  seen.push(field.name);
  setField(parent, leaf, value);
  return undefined;
}

function clashes(root: Message, path: FieldPath): boolean {
  if (path.length === 1 && path[0].oneof === undefined) {
    return false;
  }
  let target: Record<string, unknown> | undefined = root as unknown as Record<string, unknown>;
  for (const field of path) {
    if (target === undefined) {
      return false;
    }
    if (field.oneof !== undefined) {
      const { case: set } = target[field.oneof.localName] as { case?: string };
      if (set !== undefined && set !== field.localName) {
        return true;
      }
    }
    target = getField(target, field) as Record<string, unknown> | undefined;
  }
  return false;
}

const broken = "has a percent escape that is broken or not UTF-8";

function decodeForm(raw: string): string | undefined {
  if (/^[ -$&-*,-~]*$/.test(raw)) {
    return raw;
  }
  const spaced = raw.includes("+") ? raw.replaceAll("+", " ") : raw;
  if (/[^\x20-\x7e]/.test(spaced)) {
    return undefined;
  }
  try {
    return spaced.includes("%") ? decodeURIComponent(spaced) : spaced;
  } catch {
    return undefined;
  }
}
