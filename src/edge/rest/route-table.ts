import { decodeSegment, decodeSegments, PathError, splitTarget } from "./path.ts";
import type { Segment, Template } from "./template.ts";

/** A method and a path template, and what they lead to. */
export interface Route<Value> {
  /** An HTTP method as sent, or "*" for any that no other route of the same path names. */
  readonly method: string;
  readonly template: Template;
  /** Named in messages about clashing routes: the RPC, for example. */
  readonly name: string;
  readonly value: Value;
}

/** What a request target leads to. */
export type Match<Value> =
  | {
      readonly kind: "match";
      readonly route: Route<Value>;
      /** The decoded value of each of the template's variables, in their order. */
      readonly bindings: readonly string[];
    }
  | { readonly kind: "notFound" }
  /** `allow` is sorted and holds HEAD beside GET, and OPTIONS always. */
  | { readonly kind: "methodNotAllowed"; readonly allow: readonly string[] }
  | { readonly kind: "badPath"; readonly status: 400 | 414; readonly reason: string };

/** Finds the route of a request. Holds no request state. */
export interface RouteTable<Value> {
  /** Look up a method and a request target, raw as sent; a query is ignored. Never throws. */
  match(method: string, target: string): Match<Value>;
}

/** Most characters of a path. */
export const pathLengthMax = 8192;
/** Most characters, as sent, of a verb and its colon: more than any template may ask for. */
const verbLengthMax = 256;
/** Most segments of a path. */
export const pathSegmentsMax = 256;

/**
 * Build a route table. A route whose verb fits wins over all without one, the longest verb first;
 * then literals win over `*`, `*` over `**`, from left to right; after `**` the longer tail wins;
 * then a route's own method wins over "*". The method is part of the match, so a better-fitting path
 * of another method hides nothing. Throws if two routes have the same method and shape.
 */
export function createRouteTable<Value>(routes: readonly Route<Value>[]): RouteTable<Value> {
  const root = emptyNode<Value>();
  const verbs = new Set<string>();
  for (const route of routes) {
    insert(root, route);
    if (route.template.verb !== undefined) {
      verbs.add(route.template.verb);
    }
  }
  return { match: (method, target) => match(root, verbs, method, target) };
}

interface Node<Value> {
  readonly literals: Map<string, Node<Value>>;
  star: Node<Value> | undefined;
  readonly end: End<Value>;
  /** The routes that go on with `**` from here, by the literals after it, the longest first. */
  readonly tails: Tail<Value>[];
}

interface Tail<Value> {
  readonly literals: readonly string[];
  readonly end: End<Value>;
}

/** Routes that end at the same place: by verb ("" for none), then by method. */
type End<Value> = Map<string, Map<string, Route<Value>>>;

function emptyNode<Value>(): Node<Value> {
  return { literals: new Map(), star: undefined, end: new Map(), tails: [] };
}

function insert<Value>(root: Node<Value>, route: Route<Value>): void {
  const { segments, verb = "" } = route.template;
  let node = root;
  let end: End<Value> | undefined;
  for (const [index, segment] of segments.entries()) {
    if (segment.kind === "doubleStar") {
      end = tailEnd(node, segments.slice(index + 1));
      break;
    }
    node = child(node, segment);
  }
  end ??= node.end;
  const methods = end.get(verb) ?? new Map<string, Route<Value>>();
  end.set(verb, methods);
  const other = methods.get(route.method);
  if (other !== undefined) {
    throw new Error(
      `Cannot add route ${route.method} "${route.template.text}" of ${route.name}: ` +
        `"${other.template.text}" of ${other.name} has the same shape`,
    );
  }
  methods.set(route.method, route);
}

function child<Value>(node: Node<Value>, segment: Segment): Node<Value> {
  if (segment.kind !== "literal") {
    node.star ??= emptyNode();
    return node.star;
  }
  const found = node.literals.get(segment.value) ?? emptyNode();
  node.literals.set(segment.value, found);
  return found;
}

function tailEnd<Value>(node: Node<Value>, rest: readonly Segment[]): End<Value> {
  const literals = rest.flatMap((segment) => (segment.kind === "literal" ? [segment.value] : []));
  const found = node.tails.find((tail) => sameTexts(tail.literals, literals));
  if (found !== undefined) {
    return found.end;
  }
  const tail: Tail<Value> = { literals, end: new Map() };
  node.tails.push(tail);
  node.tails.sort((a, b) => b.literals.length - a.literals.length);
  return tail.end;
}

function sameTexts(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((text, index) => text === other[index]);
}

/** The last segment may end in a verb or may hold the colon as data: each reading is a search. */
interface Search {
  readonly method: string;
  readonly segments: readonly string[];
  /** Empty for none. */
  readonly verb: string;
  /** The methods of the routes that fit but for theirs, some more than once. */
  readonly allow: string[];
}

interface Found<Value> {
  readonly route: Route<Value>;
  /** The path's segments that count: verb cut off, a trailing empty one dropped after `**`. */
  readonly segments: readonly string[];
}

function match<Value>(
  root: Node<Value>,
  verbs: ReadonlySet<string>,
  method: string,
  target: string,
): Match<Value> {
  const { path } = splitTarget(target);
  if (path.length > pathLengthMax) {
    return { kind: "badPath", status: 414, reason: `is longer than ${pathLengthMax} characters` };
  }
  if (!path.startsWith("/")) {
    return { kind: "badPath", status: 400, reason: `does not start with "/"` };
  }
  const segments = path === "/" ? [] : path.slice(1).split("/", pathSegmentsMax + 1);
  if (segments.length > pathSegmentsMax) {
    return { kind: "badPath", status: 414, reason: `has more than ${pathSegmentsMax} segments` };
  }
  const allow: string[] = [];
  const last = segments[segments.length - 1] ?? "";
  if (!last.includes(":")) {
    const found = walk({ method, segments, verb: "", allow }, root, 0);
    return found === undefined ? missed(allow) : capture(found);
  }
  for (const { verb, text } of readingsOf(last, verbs)) {
    const read = verb === "" ? segments : [...segments.slice(0, -1), text];
    const found = walk({ method, segments: read, verb, allow }, root, 0);
    if (found !== undefined) {
      return capture(found);
    }
  }
  return missed(allow);
}

function missed<Value>(methods: readonly string[]): Match<Value> {
  if (methods.length === 0) {
    return { kind: "notFound" };
  }
  const allow = new Set([...methods, "OPTIONS", ...(methods.includes("GET") ? ["HEAD"] : [])]);
  return { kind: "methodNotAllowed", allow: [...allow].sort() };
}

// The longest verb is the one after the first colon, so the readings come in their order.
function readingsOf(last: string, verbs: ReadonlySet<string>): { verb: string; text: string }[] {
  const readings = [];
  for (let mark = last.indexOf(":"); mark >= 0; mark = last.indexOf(":", mark + 1)) {
    if (last.length - mark > verbLengthMax) {
      continue;
    }
    const verb = decodeVerb(last.slice(mark + 1));
    if (verbs.has(verb)) {
      readings.push({ verb, text: last.slice(0, mark) });
    }
  }
  return [...readings, { verb: "", text: last }];
}

// An escaped colon is data.
function decodeVerb(raw: string): string {
  return /%3a/i.test(raw) ? "" : decodeOrEmpty(raw);
}

// Each node lies at one depth, so a walk visits no node twice, whatever the path: backtracking is
// bounded by the table's size.
function walk<Value>(search: Search, node: Node<Value>, depth: number): Found<Value> | undefined {
  const text = search.segments[depth];
  if (text === undefined) {
    return pick(search, node.end, search.segments) ?? walkTails(search, node, depth);
  }
  const literal = node.literals.size > 0 ? node.literals.get(decodeOrEmpty(text)) : undefined;
  const star = text === "" ? undefined : node.star;
  return (
    (literal && walk(search, literal, depth + 1)) ??
    (star && walk(search, star, depth + 1)) ??
    walkTails(search, node, depth)
  );
}

function walkTails<Value>(
  search: Search,
  node: Node<Value>,
  depth: number,
): Found<Value> | undefined {
  const { segments } = search;
  for (const tail of node.tails) {
    if (fitsTail(segments, tail.literals, depth)) {
      const found = pick(search, tail.end, dropTrailing(segments, tail.literals, depth));
      if (found !== undefined) {
        return found;
      }
    }
  }
  return undefined;
}

function fitsTail(segments: readonly string[], tail: readonly string[], depth: number): boolean {
  const offset = segments.length - tail.length;
  return (
    offset >= depth &&
    tail.every((literal, index) => decodeOrEmpty(segments[offset + index] ?? "") === literal)
  );
}

function dropTrailing(
  segments: readonly string[],
  tail: readonly string[],
  depth: number,
): readonly string[] {
  const drops = tail.length === 0 && segments.length > depth && segments.at(-1) === "";
  return drops ? segments.slice(0, -1) : segments;
}

function pick<Value>(
  { method, verb, allow }: Search,
  end: End<Value>,
  segments: readonly string[],
): Found<Value> | undefined {
  const methods = end.get(verb);
  if (methods === undefined) {
    return undefined;
  }
  const route =
    methods.get(method) ?? (method === "HEAD" ? methods.get("GET") : undefined) ?? methods.get("*");
  if (route !== undefined) {
    return { route, segments };
  }
  for (const other of methods.keys()) {
    allow.push(other);
  }
  return undefined;
}

// No template has an empty literal or verb, so an empty result matches none.
function decodeOrEmpty(raw: string): string {
  if (!raw.includes("%")) {
    return raw;
  }
  try {
    return decodeURIComponent(raw);
  } catch {
    return "";
  }
}

function capture<Value>({ route, segments }: Found<Value>): Match<Value> {
  const { variables, segments: own } = route.template;
  const stretch = segments.length - own.length;
  const bindings: string[] = [];
  for (const variable of variables) {
    try {
      const isOne = !variable.multiSegment && variable.end - variable.start === 1 && stretch === 0;
      bindings.push(
        isOne
          ? decodeSegment(segments[variable.start] ?? "")
          : decodeStretch(own, variable, segments, stretch),
      );
    } catch (error) {
      if (error instanceof PathError) {
        const reason = `"${variable.fieldPath.join(".")}" ${error.message}`;
        return { kind: "badPath", status: 400, reason };
      }
      throw error;
    }
  }
  return { kind: "match", route, bindings };
}

/** A variable's value where a `**` has moved what comes after it, or which has several segments. */
function decodeStretch(
  own: readonly Segment[],
  { start, end, multiSegment }: Template["variables"][number],
  segments: readonly string[],
  stretch: number,
): string {
  const stretchAt = own.findIndex(({ kind }) => kind === "doubleStar");
  const shift = (index: number) => (stretchAt >= 0 && index > stretchAt ? index + stretch : index);
  const raw = segments.slice(shift(start), shift(end)).join("/");
  return multiSegment ? decodeSegments(raw) : decodeSegment(raw);
}
