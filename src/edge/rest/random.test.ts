import {
  type DescField,
  fromJson,
  type JsonObject,
  type JsonValue,
  toBinary,
} from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import {
  EverythingSchema,
  LibraryService,
} from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { decodeBody } from "./body.ts";
import { BindError, HttpError } from "./errors.ts";
import { negotiate, requireJson } from "./media-type.ts";
import { bindQuery } from "./query.ts";
import { createRouteTable } from "./route-table.ts";
import { restRoutes } from "./rules.ts";
import { parseTemplate, type Template, TemplateError } from "./template.ts";

// A failure is repeated with SEED=<the seed that the failure names>.
const seed = Number(process.env.SEED ?? Date.now() % 2 ** 32);
console.log(`random.test.ts: SEED=${seed}`);

interface Random {
  below(limit: number): number;
  pick<T>(items: readonly T[]): T;
  text(alphabet: readonly string[], lengthMax: number): string;
}

// Mulberry32.
function createRandom(start: number): Random {
  let state = start;
  function below(limit: number): number {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  }
  function pick<T>(items: readonly T[]): T {
    return items[below(items.length)] as T;
  }
  function text(alphabet: readonly string[], lengthMax: number): string {
    return Array.from({ length: below(lengthMax + 1) }, () => pick(alphabet)).join("");
  }
  return { below, pick, text };
}

const characters = [..."abzAZ019-_.~ :%&=+?#@!$'()*,;/\"\\{}[]<>|^`\t\n\u0000éß漢😀"];

// http.proto: one segment keeps [-_.~0-9A-Za-z], several keep "/" as well.
function expand(template: Template, values: readonly string[]): string {
  const steps = template.segments.map((one) =>
    one.kind === "literal" ? encodeURIComponent(one.value) : "*",
  );
  let path = "";
  let index = 0;
  for (const [at, variable] of template.variables.entries()) {
    path += steps
      .slice(index, variable.start)
      .map((step) => `/${step}`)
      .join("");
    const keep = variable.multiSegment ? /[^-_.~/0-9A-Za-z]/gu : /[^-_.~0-9A-Za-z]/gu;
    const value = (values[at] ?? "").replace(keep, percentEncode);
    path += variable.multiSegment && value === "" ? "" : `/${value}`;
    index = variable.end;
  }
  path += steps
    .slice(index)
    .map((step) => `/${step}`)
    .join("");
  return template.verb === undefined ? path : `${path}:${template.verb}`;
}

function percentEncode(character: string): string {
  return Array.from(new TextEncoder().encode(character), (byte) => {
    return `%${byte.toString(16).padStart(2, "0").toUpperCase()}`;
  }).join("");
}

// A value that fits the variable's own segments. "%2F" as text cannot be told from an escape that
// stays as sent, so values of several segments do not hold it.
function valueFor(random: Random, template: Template, at: number): string {
  const variable = template.variables[at];
  const inSegment = characters.filter((character) => character !== "/");
  const alphabet = variable?.multiSegment ? inSegment : characters;
  const segment = () => `${random.text(alphabet, 8)}x`.replaceAll(/%2f/gi, "");
  const segments = template.segments.slice(variable?.start, variable?.end).flatMap((one) => {
    if (one.kind === "literal") {
      return [one.value];
    }
    return Array.from({ length: one.kind === "star" ? 1 : random.below(4) }, segment);
  });
  return segments.join("/");
}

test("what a client expands into a template, matching gives back", () => {
  const random = createRandom(seed);
  const templates = [
    "/v1/{id}",
    "/v1/{a}/{b.c}/x/{d}",
    "/v1/{id}:go",
    "/v1/{id}:go:on",
    "/v1/{name=shelves/*/books/*}",
    "/v1/{name=shelves/*}/books/{id}:go",
    "/{path=**}",
    "/v1/{path=**}",
    "/v1/{path=**}:go",
    "/v1/{path=a/**}/end",
    "/v1/{id}/{path=**/c}",
    "/caf%C3%A9/{id}/*",
  ];
  for (const text of templates) {
    const template = parseTemplate(text);
    const table = createRouteTable([{ method: "GET", template, name: text, value: 1 }]);
    for (let round = 0; round < 300; round++) {
      const values = template.variables.map((_, at) => valueFor(random, template, at));
      const target = expand(template, values) || "/";

      const match = table.match("GET", target);

      const context = `SEED=${seed} ${text} ${JSON.stringify(values)} ${target}`;
      expect(match, context).toMatchObject({ kind: "match", bindings: values });
    }
  }
});

const integerMakers = {
  int32Value: (random: Random) => random.below(2 ** 32) - 2 ** 31,
  uint32Value: (random: Random) => random.below(2 ** 32),
  int64Value: (random: Random) => String(BigInt.asIntN(64, wide(random))),
  uint64Value: (random: Random) => String(BigInt.asUintN(64, wide(random))),
  longText: (random: Random) => String(BigInt.asIntN(64, wide(random))),
  maybe: (random: Random) => random.below(3),
  int64Box: (random: Random) => String(random.below(1000)),
};

const textMakers: Record<string, (random: Random) => JsonValue> = {
  ...integerMakers,
  boolValue: (random) => random.pick([true, false]),
  doubleValue: (random) =>
    random.pick<JsonValue>([
      "NaN",
      "Infinity",
      "-Infinity",
      random.below(2 ** 32) / 7,
      1e300,
      5e-324,
    ]),
  floatValue: (random) => random.below(1000) / 4,
  stringValue: (random) => random.text(characters, 12),
  bytesValue: (random) => btoa(String.fromCharCode(...bytes(random, 9))),
  genre: (random) => random.pick<JsonValue>(["GENRE_NOVEL", "GENRE_POEM", 9]),
  otherName: (random) => random.text(characters, 5),
  time: (random) => new Date(random.below(2 ** 32) * 1000 + random.below(1000)).toISOString(),
  span: (random) => `${random.below(2) ? "-" : ""}${random.below(1e6)}.${random.below(9) + 1}s`,
  mask: (random) => random.pick(["", "a", "displayName", "a.bC,d"]),
  boolBox: (random) => random.pick([true, false]),
  stringBox: (random) => random.text(characters, 5),
  ints: (random) => Array.from({ length: random.below(4) }, () => random.below(100)),
  strings: (random) => Array.from({ length: random.below(4) }, () => random.text(characters, 4)),
  boxes: (random) => Array.from({ length: random.below(3) }, () => random.text(characters, 4)),
};

function wide(random: Random): bigint {
  return (BigInt(random.below(2 ** 32)) << 32n) | BigInt(random.below(2 ** 32));
}

function bytes(random: Random, lengthMax: number): number[] {
  return Array.from({ length: random.below(lengthMax) }, () => random.below(256));
}

function makeJson(random: Random, depth: number): JsonObject {
  const json: JsonObject = {};
  for (const [name, make] of Object.entries(textMakers)) {
    if (random.below(4) === 0) {
      json[name] = make(random);
    }
  }
  if (random.below(2) === 0) {
    const name = random.pick(["text", "box", "number"]);
    json[name] = name === "number" ? random.below(100) : random.text(characters, 4);
  } else if (depth < 3) {
    json.nested = { maybe: 1, ...makeJson(random, depth + 1) };
  }
  if (depth < 3 && random.below(2) === 0) {
    json.child = { maybe: 1, ...makeJson(random, depth + 1) };
  }
  return json;
}

function flatten(random: Random, json: JsonObject, prefix: string): [string, string][] {
  return Object.entries(json).flatMap(([jsonName, value]): [string, string][] => {
    const field: DescField | undefined = EverythingSchema.fields.find(
      (one) => one.jsonName === jsonName,
    );
    const key = prefix + random.pick([jsonName, field?.name ?? jsonName]);
    if (Array.isArray(value)) {
      return value.map((item) => [key, String(item)]);
    }
    return typeof value === "object" && value !== null
      ? flatten(random, value, `${key}.`)
      : [[key, String(value)]];
  });
}

test("what a client writes into a query, binding gives back", () => {
  const random = createRandom(seed);
  for (let round = 0; round < 500; round++) {
    const json = makeJson(random, 0);
    const sent = fromJson(EverythingSchema, json);
    const pairs = flatten(random, json, "");
    const query = random.pick([
      () => new URLSearchParams(pairs).toString(),
      () => pairs.map((pair) => pair.map(encodeURIComponent).join("=")).join("&"),
    ])();

    const bound = bindQuery(EverythingSchema, query);

    const [got, want] = [bound, sent].map((one) => toBinary(EverythingSchema, one));
    expect(got, `SEED=${seed} ${query}`).toEqual(want);
  }
});

// What is thrown must be of the given class; returns how often something was.
function countThrows(run: () => unknown, allowed: new (...values: never[]) => Error): number {
  try {
    run();
    return 0;
  } catch (error) {
    expect(error, `SEED=${seed}`).toBeInstanceOf(allowed);
    return 1;
  }
}

const fragments = [
  ...["v1", "books", "{id}", "{name=", "shelves", "*", "**", "}", "{", "=", ":", ":lend", "//"],
  ...["%", "%2F", "%2f", "%zz", "%ff", "%C3%A9", "%00", "http://", "..", "é", "\u0000", "echo"],
];

test("garbage for a template or a path never throws anything but a TemplateError", () => {
  const random = createRandom(seed);
  const table = createRouteTable(
    restRoutes(LibraryService).map((rule) => ({ ...rule, name: rule.rpc.name, value: rule })),
  );
  const kinds = new Map<string, number>();
  let refused = 0;
  for (let round = 0; round < 5000; round++) {
    const start = random.pick(["/", "/v1/", "/v1/books/", "/v1/files/", ""]);
    const text = start + random.text([...fragments, "/", "/", "/", "a"], 10);
    refused += countThrows(() => parseTemplate(text), TemplateError);
    const { kind } = table.match(random.pick(["GET", "POST", "HEAD", "PUT", ""]), text);
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }

  expect(refused).toBeGreaterThan(0);
  expect(refused).toBeLessThan(5000);
  expect([...kinds.keys()].sort()).toEqual(["badPath", "match", "methodNotAllowed", "notFound"]);
});

test("garbage for a query never throws anything but a BindError", () => {
  const random = createRandom(seed);
  const keys = EverythingSchema.fields.flatMap((field) => [field.name, field.jsonName]);
  const values = ["1", "-1", "true", "x", "null", "NaN", "2026-01-01T00:00:00Z", "1s", "YQ=="];
  const alphabet = [...keys, ...values, ...fragments, ".", ".", "&", "&", "=", "=", "+", "[", "]"];
  let refused = 0;
  for (let round = 0; round < 5000; round++) {
    const query = `${random.pick(keys)}=${random.pick(values)}${random.text(alphabet, 6)}`;
    refused += countThrows(() => bindQuery(EverythingSchema, query), BindError);
  }

  expect(refused).toBeGreaterThan(0);
  expect(refused).toBeLessThan(5000);
});

test("garbage for a body or a media type never throws anything but typed errors", () => {
  const random = createRandom(seed);
  const names = EverythingSchema.fields.map((field) => `"${field.jsonName}":`);
  const tokens = [
    ...names,
    "{",
    "}",
    "[",
    "]",
    ",",
    "1",
    '"x"',
    "null",
    "true",
    "1e999",
    '"\\ud800"',
  ];
  const pieces = [
    "application/json",
    "*/*",
    ";",
    ",",
    "q=0.5",
    "charset=",
    '"',
    "\\",
    "utf-8",
    " ",
  ];
  let refused = 0;
  for (let round = 0; round < 5000; round++) {
    const name = random.pick(names);
    const text = random.pick([
      () => random.text(tokens, 12),
      () => `{${name}${random.pick(tokens)}}`,
      () => `{${name}[${random.pick(tokens)}]}`,
      () => `{${name}{"a":${random.pick(tokens)}}}`,
      () => String.fromCharCode(...bytes(random, 20)),
    ])();
    const body = Buffer.from(text, random.pick(["utf8", "latin1"]));
    refused += countThrows(() => decodeBody(EverythingSchema, "*", body), BindError);
    const header = random.text(pieces, 8);
    countThrows(() => requireJson(header), HttpError);
    expect(["json", "problem", "none"]).toContain(negotiate(header));
  }

  expect(refused).toBeGreaterThan(0);
  expect(refused).toBeLessThan(5000);
});
