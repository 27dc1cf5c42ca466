/** The routes of an API, for calls to be matched with. */
export interface RouteTable<T> {
  /** The path as it was sent, still encoded, with its leading slash. */
  match(method: string, rawPath: string): RouteMatch<T>;
}

/**
 * What a call is matched with. `endpoint` is how it is named in analytics, for example `GET /users/{id}`.
 *
 * An ambiguous path is one that servers read in different ways: it might be another route to the upstream.
 */
export type RouteMatch<T> =
  | { kind: "match"; value: T; endpoint: string }
  | { kind: "unknown" }
  | { kind: "method"; allow: readonly string[] }
  | { kind: "ambiguous" };

/** A route that calls are matched with. Without methods: any. */
export interface RouteRule<T> {
  readonly methods: readonly string[];
  /** A path template. */
  readonly path: string;
  readonly value: T;
}

/** Routes make no table. */
export class RouteError extends Error {
  override name = "RouteError";
  /** Which of the routes is wrong, from zero. */
  readonly index: number;
  readonly reason: string;

  constructor(index: number, reason: string) {
    super(`Cannot use route ${index}: ${reason}`);
    this.index = index;
    this.reason = reason;
  }
}

/** Paths of templates that end at a segment. */
interface Leaf<T> {
  readonly path: string;
  readonly byMethod: Map<string, T>;
  /** For methods that have no own. */
  any: { readonly value: T } | undefined;
}

interface Node<T> {
  /** By the literal in lower case: some servers tell no case from the other. */
  literals: Map<string, Literal<T>[]> | undefined;
  star: Node<T> | undefined;
  /** Ends here. */
  leaf: Leaf<T> | undefined;
  /** Ends here, or anywhere below. */
  rest: Leaf<T> | undefined;
}

interface Literal<T> {
  readonly text: string;
  readonly node: Node<T>;
}

const segmentsMax = 16;

/**
 * Make the table of routes. Throws RouteError when a template is wrong, or two routes are the same.
 *
 * A template is made of literals, `{name}` for one segment, and `{name=**}` at its end for any number of them. The most
 * precise route that fits a call's path and method counts: a literal before a variable, that before the rest. HEAD
 * is served by routes of GET.
 */
export function compileRoutes<T>(routes: readonly RouteRule<T>[]): RouteTable<T> {
  const root = newNode<T>();
  for (const [index, route] of routes.entries()) {
    const problem = addRoute(root, route);
    if (problem !== undefined) {
      throw new RouteError(index, problem);
    }
  }
  return { match: (method, rawPath) => matchPath(root, method, rawPath) };
}

function newNode<T>(): Node<T> {
  return { literals: undefined, star: undefined, leaf: undefined, rest: undefined };
}

/** Add a route. What is wrong with it, if anything is. */
function addRoute<T>(root: Node<T>, { methods, path, value }: RouteRule<T>): string | undefined {
  const template = parsePath(path);
  if (typeof template === "string") {
    return template;
  }
  let node = root;
  for (const segment of template.segments) {
    node = segment === null ? starOf(node) : literalOf(node, segment);
  }
  const leaf = leafOf(node, { path, hasRest: template.hasRest });
  if (methods.length === 0) {
    if (leaf.any !== undefined) {
      return "another route has the same path";
    }
    leaf.any = { value };
    return undefined;
  }
  for (const method of methods) {
    if (leaf.byMethod.has(method)) {
      return `another route has the same path and method ${method}`;
    }
    leaf.byMethod.set(method, value);
  }
  return undefined;
}

function starOf<T>(node: Node<T>): Node<T> {
  node.star ??= newNode();
  return node.star;
}

function literalOf<T>(parent: Node<T>, text: string): Node<T> {
  parent.literals ??= new Map();
  const alike = parent.literals.get(text.toLowerCase()) ?? [];
  const found = alike.find((literal) => literal.text === text);
  if (found !== undefined) {
    return found.node;
  }
  const node = newNode<T>();
  parent.literals.set(text.toLowerCase(), [...alike, { text, node }]);
  return node;
}

function leafOf<T>(node: Node<T>, { path, hasRest }: { path: string; hasRest: boolean }): Leaf<T> {
  const leaf = (hasRest ? node.rest : node.leaf) ?? { path, byMethod: new Map(), any: undefined };
  if (hasRest) {
    node.rest = leaf;
  } else {
    node.leaf = leaf;
  }
  return leaf;
}

interface ParsedPath {
  /** Null for a variable. */
  segments: (string | null)[];
  hasRest: boolean;
}

const literalPattern = /^[A-Za-z0-9._~!$&'()+,=@:-]+$/;
const variablePattern = /^\{([A-Za-z_][A-Za-z0-9_]*)(=\*\*?)?\}$/;

/** The parts of a template, or what is wrong with it. */
function parsePath(path: string): ParsedPath | string {
  if (!path.startsWith("/")) {
    return 'must begin with "/"';
  }
  const parts = path === "/" ? [] : path.slice(1).split("/");
  if (parts.length > segmentsMax) {
    return `must have at most ${segmentsMax} segments`;
  }
  const names = new Set<string>();
  const segments: (string | null)[] = [];
  for (const [index, part] of parts.entries()) {
    const [, name, stars] = variablePattern.exec(part) ?? [];
    if (name === undefined) {
      if (!literalPattern.test(part) || part === "." || part === "..") {
        return `"${part}" is no segment`;
      }
      segments.push(part);
      continue;
    }
    if (names.has(name)) {
      return `"${name}" stands in it twice`;
    }
    names.add(name);
    if (stars === "=**") {
      return index === parts.length - 1
        ? { segments, hasRest: true }
        : `nothing may follow "${part}"`;
    }
    segments.push(null);
  }
  return { segments, hasRest: false };
}

function matchPath<T>(root: Node<T>, method: string, rawPath: string): RouteMatch<T> {
  const segments = rawPath === "/" ? [] : splitPath(rawPath);
  if (segments === null) {
    return { kind: "ambiguous" };
  }
  const search: Search<T> = { method, segments, isAmbiguous: false, allow: undefined, found: null };
  visit(search, root, 0);
  const { isAmbiguous, found, allow } = search;
  if (isAmbiguous) {
    return { kind: "ambiguous" };
  }
  if (found !== null) {
    return found;
  }
  return allow === undefined ? { kind: "unknown" } : { kind: "method", allow: [...allow].sort() };
}

// What ends or parts a segment to some servers, and what they drop.
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const unclear = /[/\\;\0-\x1f\x7f]/;
/** What is decoded twice by some servers. */
const escaped = /%[0-9a-f]{2}/i;

/** The segments, decoded. Null when servers would not agree on them. */
function splitPath(rawPath: string): readonly string[] | null {
  const segments = rawPath.slice(1).split("/");
  for (const [index, raw] of segments.entries()) {
    const segment = raw.includes("%") ? decode(raw) : raw;
    if (segment === null || segment === "" || segment === "." || segment === "..") {
      return null;
    }
    if (unclear.test(segment) || (segment !== raw && escaped.test(segment))) {
      return null;
    }
    segments[index] = segment;
  }
  return segments;
}

function decode(raw: string): string | null {
  try {
    return decodeURIComponent(raw);
  } catch {
    return null;
  }
}

interface Search<T> {
  readonly method: string;
  readonly segments: readonly string[];
  /** A literal was met that differs in case alone. */
  isAmbiguous: boolean;
  /** Methods of routes that fit but for the method. */
  allow: Set<string> | undefined;
  found: RouteMatch<T> | null;
}

/** Look below a node, the most precise way first. True: there is no need to look any further. */
function visit<T>(search: Search<T>, node: Node<T>, depth: number): boolean {
  const segment = search.segments[depth];
  if (segment === undefined) {
    return take(search, node.leaf) || take(search, node.rest);
  }
  const alike = node.literals?.get(segment.toLowerCase());
  if (alike !== undefined) {
    const literal = alike.find(({ text }) => text === segment);
    if (literal === undefined) {
      search.isAmbiguous = true;
      return true;
    }
    if (visit(search, literal.node, depth + 1)) {
      return true;
    }
  }
  const { star } = node;
  return (star !== undefined && visit(search, star, depth + 1)) || take(search, node.rest);
}

function take<T>(search: Search<T>, leaf: Leaf<T> | undefined): boolean {
  if (leaf === undefined) {
    return false;
  }
  const { method } = search;
  const own = leaf.byMethod.get(method);
  const value = own ?? (method === "HEAD" ? leaf.byMethod.get("GET") : undefined);
  const found = value === undefined ? leaf.any : { value };
  if (found !== undefined) {
    search.found = { kind: "match", value: found.value, endpoint: `${method} ${leaf.path}` };
    return true;
  }
  search.allow ??= new Set();
  for (const allowed of leaf.byMethod.keys()) {
    search.allow.add(allowed);
    if (allowed === "GET") {
      search.allow.add("HEAD");
    }
  }
  return false;
}
