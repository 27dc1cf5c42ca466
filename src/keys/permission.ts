/** What a key must be allowed to do. */
export type Permission =
  /** This very thing. */
  | { readonly kind: "name"; readonly name: string }
  /** Anything that begins so: `c.` for `c.*`, nothing for `*`. */
  | { readonly kind: "below"; readonly prefix: string }
  | { readonly kind: "all" | "any"; readonly parts: readonly Permission[] };

/** Thrown for an expression that cannot be read. The message says what it must be, and where it is not. */
export class PermissionError extends Error {
  override name = "PermissionError";
}

const lengthMax = 1000;
const depthMax = 16;

/**
 * Read an expression of names, AND, OR and parentheses, for example `a.read AND (b.write OR c.*)`.
 *
 * AND binds closer than OR; both may be written in either case, and are no names. Throws PermissionError.
 */
export function parsePermission(text: string): Permission {
  if (text.length > lengthMax) {
    throw new PermissionError(`must be at most ${lengthMax} characters long`);
  }
  const reader = createReader(text);
  const permission = readAny(reader, 0);
  if (reader.word() !== "") {
    throw reader.expected("AND, OR or the end");
  }
  return permission;
}

/**
 * Whether scopes allow what is asked. A scope `c.*` allows all that is below `c`, and `*` everything; to be asked
 * for `c.*` is to be asked for any scope below `c`.
 */
export function isAllowed(permission: Permission, scopes: readonly string[]): boolean {
  switch (permission.kind) {
    case "name":
      return scopes.some((scope) => coversName(scope, permission.name));
    case "below":
      return scopes.some((scope) => reachesBelow(scope, permission.prefix));
    case "all":
      return permission.parts.every((part) => isAllowed(part, scopes));
    case "any":
      return permission.parts.some((part) => isAllowed(part, scopes));
  }
}

function coversName(scope: string, name: string): boolean {
  return scope === name || (scope.endsWith("*") && name.startsWith(scope.slice(0, -1)));
}

function reachesBelow(scope: string, prefix: string): boolean {
  return scope.startsWith(prefix) || (scope.endsWith("*") && prefix.startsWith(scope.slice(0, -1)));
}

interface Reader {
  /** The word at the present place: a parenthesis, an operator, a name. Empty at the end. */
  word(): string;
  /** Go on to the next word. */
  next(): void;
  expected(what: string): PermissionError;
}

function createReader(text: string): Reader {
  const words = [...text.matchAll(/[()]|[^\s()]+/g)];
  let at = 0;
  return {
    word: () => words[at]?.[0] ?? "",
    next() {
      at += 1;
    },
    expected(what) {
      const place = (words[at]?.index ?? text.length) + 1;
      return new PermissionError(`must have ${what} at character ${place}`);
    },
  };
}

function readAny(reader: Reader, depth: number): Permission {
  return readParts(reader, { kind: "any", operator: "OR" }, () => readAll(reader, depth));
}

function readAll(reader: Reader, depth: number): Permission {
  return readParts(reader, { kind: "all", operator: "AND" }, () => readOne(reader, depth));
}

function readParts(
  reader: Reader,
  { kind, operator }: { kind: "all" | "any"; operator: string },
  readPart: () => Permission,
): Permission {
  const first = readPart();
  const parts = [first];
  while (reader.word().toUpperCase() === operator) {
    reader.next();
    parts.push(readPart());
  }
  return parts.length === 1 ? first : { kind, parts };
}

function readOne(reader: Reader, depth: number): Permission {
  const word = reader.word();
  if (word === "(") {
    if (depth === depthMax) {
      throw reader.expected(`parentheses at most ${depthMax} deep, not one more`);
    }
    reader.next();
    const inner = readAny(reader, depth + 1);
    if (reader.word() !== ")") {
      throw reader.expected("AND, OR or a closing parenthesis");
    }
    reader.next();
    return inner;
  }
  if (!isName(word)) {
    throw reader.expected("a name");
  }
  reader.next();
  return word.endsWith("*")
    ? { kind: "below", prefix: word.slice(0, -1) }
    : { kind: "name", name: word };
}

const namePattern = /^(?:[0-9A-Za-z_:-]+\.)*(?:[0-9A-Za-z_:-]+|\*)$/;

function isName(word: string): boolean {
  return namePattern.test(word) && !/^(?:and|or)$/i.test(word);
}
