import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeSegment, decodeSegments, PathError } from "./path.ts";
import { createRouteTable, type Match, type Route } from "./route-table.ts";
import { parseTemplate, type Segment } from "./template.ts";

// A slow matcher that says in the plainest way what the table must answer: try every reading of the
// path against every route, rank what fits, take the first.

interface Fit {
  readonly route: Route<number>;
  /** The smaller, compared from the left, the better. */
  readonly rank: readonly number[];
  /** The segments of the path that each of the template's segments took, as sent. */
  readonly taken: readonly (readonly string[])[];
}

function referenceMatch(routes: readonly Route<number>[], method: string, path: string) {
  const segments = path === "/" ? [] : path.slice(1).split("/");
  const fits = routes.flatMap((route) => fitsOf(route, segments));
  const sameMethod = fits
    .map((fit) => ({ ...fit, rank: [...fit.rank, methodRank(fit.route.method, method)] }))
    .filter(({ rank }) => rank.at(-1) !== noRank)
    .sort((a, b) => compareRanks(a.rank, b.rank));
  const [best] = sameMethod;
  if (best !== undefined) {
    return captured(best);
  }
  if (fits.length === 0) {
    return { kind: "notFound" };
  }
  const allow = new Set([...fits.map((fit) => fit.route.method), "OPTIONS"]);
  return {
    kind: "methodNotAllowed",
    allow: [...(allow.has("GET") ? allow.add("HEAD") : allow)].sort(),
  };
}

const noRank = 9;

function methodRank(offered: string, asked: string): number {
  if (offered === asked) {
    return 0;
  }
  return offered === "GET" && asked === "HEAD" ? 1 : offered === "*" ? 2 : noRank;
}

function compareRanks(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((number, index) => number !== b[index]);
  return at < 0 ? 0 : (a[at] ?? 0) - (b[at] ?? 0);
}

function fitsOf(route: Route<number>, sent: readonly string[]): Fit[] {
  const { segments, verb } = route.template;
  const path = verb === undefined ? sent : withoutVerb(sent, verb);
  if (path === undefined) {
    return [];
  }
  const at = segments.findIndex(({ kind }) => kind === "doubleStar");
  const head = at < 0 ? segments : segments.slice(0, at);
  const tail = at < 0 ? [] : segments.slice(at + 1);
  const isLong = path.length >= head.length + tail.length;
  if (at < 0 ? path.length !== head.length : !isLong) {
    return [];
  }
  const middle = path.slice(head.length, path.length - tail.length);
  const isTrailing = tail.length === 0 && middle.at(-1) === "";
  const ends = tail.length === 0 ? [] : path.slice(-tail.length);
  const fixed = [...path.slice(0, head.length), ...ends];
  if (![...head, ...tail].every((segment, index) => fitsSegment(segment, fixed[index] ?? ""))) {
    return [];
  }
  const taken = fixed.map((text) => [text]);
  if (at >= 0) {
    taken.splice(at, 0, isTrailing ? middle.slice(0, -1) : middle);
  }
  const kinds = head.map(({ kind }) => (kind === "literal" ? 0 : 1));
  const rank = [-(verb?.length ?? 0), ...kinds, ...(at < 0 ? [-1] : [2, -tail.length])];
  return [{ route, rank, taken }];
}

function withoutVerb(sent: readonly string[], verb: string): string[] | undefined {
  const last = sent.at(-1) ?? "";
  const parts = last.split(":");
  for (let count = 1; count < parts.length; count++) {
    const raw = parts.slice(count).join(":");
    if (!/%3a/i.test(raw) && decoded(raw) === verb) {
      return [...sent.slice(0, -1), parts.slice(0, count).join(":")];
    }
  }
  return undefined;
}

function fitsSegment(segment: Segment, raw: string): boolean {
  return segment.kind === "literal" ? decoded(raw) === segment.value : raw !== "";
}

function decoded(raw: string): string | undefined {
  try {
    return decodeURIComponent(raw);
  } catch {
    return undefined;
  }
}

function captured({ route, taken }: Fit) {
  try {
    const bindings = route.template.variables.map(({ start, end, multiSegment }) => {
      const raw = taken.slice(start, end).flat().join("/");
      return multiSegment ? decodeSegments(raw) : decodeSegment(raw);
    });
    return { kind: "match", route: route.value, bindings };
  } catch (error) {
    if (error instanceof PathError) {
      return { kind: "badPath", status: 400 };
    }
    throw error;
  }
}

const literals = fc.constantFrom("a", "b", "%61", "a%2Fb", "x%3Ago");
const wildcard = fc.constantFrom("*", "{}", "{=*}", "{=a}", "{=a/*}", "{=*/b}");
const deep = fc.constantFrom("**", "{=**}", "{=a/**}", "{=**/b}", "{=*/**}");
const segmentTexts = fc
  .tuple(
    fc.array(fc.oneof(literals, wildcard), { maxLength: 4 }),
    fc.option(deep, { freq: 2 }),
    fc.array(literals, { maxLength: 2 }),
  )
  .map(([head, middle, tail]) => [...head, ...(middle === null ? [] : [middle]), ...tail]);
const verbs = fc.constantFrom("", "", "", ":go", ":on", ":go:on", ":%67o");
const methods = fc.constantFrom("GET", "POST", "*", "HEAD");

const templateTexts = fc.tuple(segmentTexts, verbs).map(([texts, verb]) => {
  const named = texts.map((text, index) => text.replace("{", `{v${index}`));
  return named.length === 0 ? "/" : `/${named.join("/")}${verb}`;
});

const routeSets = fc
  .uniqueArray(
    fc.record({ method: methods, template: templateTexts.map((text) => parseTemplate(text)) }),
    {
      maxLength: 12,
      selector: ({ method, template: { segments, verb } }) =>
        JSON.stringify([method, segments, verb ?? ""]),
    },
  )
  .map((routes) => routes.map((route, value) => ({ ...route, name: `rpc${value}`, value })));

const pathSegments = fc.constantFrom(
  ...["a", "b", "c", "", "%61", "a%2Fb", "a%2fb", "a:go", "b:go:on", "x:go", "x%3Ago", ":go"],
  ...["a:%67o", "a:other", "%zz", "%ff", "a:go%3Aon"],
);
const paths = fc.array(pathSegments, { maxLength: 6 }).map((segments) => `/${segments.join("/")}`);

function summary(match: Match<number>) {
  switch (match.kind) {
    case "match":
      return { kind: "match", route: match.route.value, bindings: [...match.bindings] };
    case "badPath":
      return { kind: "badPath", status: match.status };
    default:
      return match;
  }
}

test("the table answers as trying every route does, whatever the order of the routes", () => {
  const kinds = new Set<string>();
  fc.assert(
    fc.property(
      routeSets,
      fc.array(fc.tuple(fc.constantFrom("GET", "HEAD", "POST", "PUT"), paths), { maxLength: 20 }),
      (routes, requests) => {
        const table = createRouteTable(routes);
        const reversed = createRouteTable(routes.toReversed());
        for (const [method, path] of requests) {
          const wanted = referenceMatch(routes, method, path);
          expect(summary(table.match(method, path))).toEqual(wanted);
          expect(summary(reversed.match(method, path))).toEqual(wanted);
          kinds.add(wanted.kind);
        }
      },
    ),
    { numRuns: 1500 },
  );

  expect([...kinds].sort()).toEqual(["badPath", "match", "methodNotAllowed", "notFound"]);
});
