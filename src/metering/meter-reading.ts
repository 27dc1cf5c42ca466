import { createHash } from "node:crypto";
import { parseDecimal } from "../lib/decimal.ts";
import {
  compilePath,
  findScalar,
  type JsonPath,
  parseData,
  type Scalar,
} from "../lib/json-path.ts";

/** What a meter makes of the values. */
export type Aggregation = "sum" | "count" | "avg" | "min" | "max" | "unique_count" | "latest";

/** Whose events a meter sees: those of the account, or those of the account's APIs. */
export type MeterSide = "consumer" | "developer";

/** A condition on a dimension: one of the values, or, when it excludes, none of them. */
export interface Filter {
  path: string;
  values: readonly string[];
  exclude: boolean;
}

/** What is counted, and how. */
export interface MeterDefinition {
  aggregation: Aggregation;
  /** Empty for `count`. */
  valuePath: string;
  groups: readonly { name: string; path: string }[];
  filters: readonly Filter[];
  side: MeterSide;
}

/** An applied event, as far as meters read it. */
export interface MeteredEvent {
  apiId: string;
  endpoint: string;
  statusCode: number;
  keyId: string | null;
  /** JSON, or empty. */
  data: string;
  timeMicros: bigint;
  position: bigint;
  ordinal: number;
}

/** What a meter reads of an event that it counts. */
export interface Reading {
  /** The text of each group, in the definition's order. */
  groups: readonly string[];
  /**
   * A decimal times 10^18; the hash of a value, in hexadecimal digits, when different ones are counted. Null when there
   * is no value.
   */
  value: bigint | string | null;
}

/** A definition whose paths are compiled. Null for an event that its filters leave out. */
export type Meter = (event: OpenEvent) => Reading | null;

/** An event whose data is parsed once, however many meters read it. */
export interface OpenEvent {
  event: MeteredEvent;
  find(path: JsonPath): Scalar | null;
}

/** Open an event for meters. */
export function openEvent(event: MeteredEvent): OpenEvent {
  let data: { value: unknown } | undefined;
  return {
    event,
    find(path) {
      data ??= { value: parseData(event.data) };
      return findScalar(data.value, path);
    },
  };
}

/** Whether a text names a dimension: a field of events, or a JSONPath into their data. */
export function isDimension(path: string): boolean {
  return isField(path) || compilePath(path) !== null;
}

/** Compile a definition. Throws RangeError when it has a path that is none. */
export function compileMeter(definition: MeterDefinition): Meter {
  const { aggregation, valuePath } = definition;
  const groups = definition.groups.map(({ path }) => dimensionAt(path));
  const filters = definition.filters.map((filter) => compileFilter(filter));
  const path = aggregation === "count" ? null : pathOf(valuePath);
  return (open) => {
    for (const holds of filters) {
      if (!holds(open)) {
        return null;
      }
    }
    const value = path === null ? 1n : readValue(open.find(path), aggregation);
    return { groups: groups.map((read) => read(open)), value };
  };
}

/** The text of a value, as dimensions show it and filters compare it. */
export function dimensionText(text: string): string {
  // The database holds neither of them: two texts that it would hold alike are alike from here on.
  const storable = text.replaceAll("\0", "\uFFFD").toWellFormed();
  if (storable.length <= dimensionLengthMax) {
    return storable;
  }
  const hash = createHash("sha256").update(storable).digest("hex").slice(0, 16);
  return `${storable.slice(0, dimensionLengthMax - hash.length - 1).toWellFormed()}…${hash}`;
}

/** A longer text is cut, and told apart from others by a hash. */
const dimensionLengthMax = 200;

function readValue(scalar: Scalar | null, aggregation: Aggregation): bigint | string | null {
  if (scalar === null) {
    return null;
  }
  if (aggregation === "unique_count") {
    const { kind, text } = scalar;
    return createHash("sha256").update(`${kind}:${text}`).digest("hex").slice(0, 32);
  }
  return scalar.kind === "truth" ? null : parseDecimal(scalar.text);
}

const fields = {
  api_id: ({ apiId }: MeteredEvent) => apiId,
  endpoint: ({ endpoint }: MeteredEvent) => endpoint,
  status_code: ({ statusCode }: MeteredEvent) => String(statusCode),
  key_id: ({ keyId }: MeteredEvent) => keyId ?? "",
} as const;

function isField(path: string): path is keyof typeof fields {
  return Object.hasOwn(fields, path);
}

function dimensionAt(path: string): (open: OpenEvent) => string {
  if (isField(path)) {
    const read = fields[path];
    return ({ event }) => dimensionText(read(event));
  }
  const compiled = pathOf(path);
  return (open) => dimensionText(open.find(compiled)?.text ?? "");
}

function compileFilter({ path, values, exclude }: Filter): (open: OpenEvent) => boolean {
  const read = dimensionAt(path);
  const listed = new Set(values.map(dimensionText));
  return (open) => listed.has(read(open)) !== exclude;
}

function pathOf(path: string): JsonPath {
  const compiled = compilePath(path);
  if (compiled === null) {
    // It will be none however often it is tried.
    throw new RangeError(`Cannot compile "${path}": it is no path`);
  }
  return compiled;
}
