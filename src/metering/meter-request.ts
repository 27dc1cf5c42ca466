import type { Timestamp } from "@bufbuild/protobuf/wkt";
import {
  type CreateMeterRequest,
  Aggregation as GivenAggregation,
  MeterSide as GivenSide,
  WindowSize as GivenSize,
  type MeterFilter,
  type QueryMeterRequest,
} from "../../gen/callora/metering/v1/meter_service_pb.ts";
import { invalidArgument, type Violation } from "../rpc/errors.ts";
import type { Mode } from "../rpc/principal.ts";
import type { MeterQuery } from "./meter-query.ts";
import {
  type Aggregation,
  isDimension,
  type MeterDefinition,
  type MeterSide,
} from "./meter-reading.ts";
import { type Window, type WindowSize, windowsMax, windowsOf, zoneClock } from "./window.ts";

const minuteMs = 60_000;
const quarterMs = 15 * minuteMs;
const dayMs = 24 * 60 * minuteMs;
const rangeDaysMax = 400;

/** From then on the clocks of all zones are put at whole quarters of an hour of UTC, as the sums are. */
const firstMs = Date.UTC(2012, 0);
const lastMs = Date.UTC(9999, 0);

const aggregations: Readonly<Record<number, Aggregation>> = {
  [GivenAggregation.SUM]: "sum",
  [GivenAggregation.COUNT]: "count",
  [GivenAggregation.AVG]: "avg",
  [GivenAggregation.MIN]: "min",
  [GivenAggregation.MAX]: "max",
  [GivenAggregation.UNIQUE_COUNT]: "unique_count",
  [GivenAggregation.LATEST]: "latest",
};

const sizes: Readonly<Record<number, WindowSize>> = {
  [GivenSize.UNSPECIFIED]: "whole",
  [GivenSize.MINUTE]: "minute",
  [GivenSize.HOUR]: "hour",
  [GivenSize.DAY]: "day",
  [GivenSize.WEEK]: "week",
  [GivenSize.MONTH]: "month",
};

/** The definition that a request asks for. Throws INVALID_ARGUMENT. */
export function definitionFrom(req: CreateMeterRequest): MeterDefinition {
  const side: MeterSide = req.side === GivenSide.DEVELOPER ? "developer" : "consumer";
  const aggregation = aggregations[req.aggregation] ?? "count";
  const { valuePath, groups, filters } = req;
  const names = groups.map(({ name }) => name);
  const problems: Violation[] = [
    ...(aggregation === "count" ? [] : dimensionProblems("value_path", valuePath, side)),
    ...groups.flatMap(({ path }, index) => dimensionProblems(`groups[${index}].path`, path, side)),
    ...filters.flatMap(({ path }, index) =>
      dimensionProblems(`filters[${index}].path`, path, side),
    ),
    ...(new Set(names).size === names.length
      ? []
      : [{ field: "groups", description: "must have names of which no two are the same" }]),
  ];
  if (problems.length > 0) {
    throw invalidArgument(problems);
  }
  return {
    aggregation,
    valuePath,
    groups: groups.map(({ name, path }) => ({ name, path })),
    filters: filters.map(toFilter),
    side,
  };
}

function dimensionProblems(field: string, path: string, side: MeterSide): Violation[] {
  const isValue = field === "value_path";
  if (!isDimension(path) || (isValue && !path.startsWith("$"))) {
    const fields = isValue ? "" : "`api_id`, `endpoint`, `status_code`, `key_id`, or ";
    return [{ field, description: `must be ${fields}\`$\`, then .name, ['name'] or [index]` }];
  }
  return path === "key_id" && side === "developer"
    ? [{ field, description: "must not be `key_id`: keys are their consumers' own" }]
    : [];
}

function toFilter({ path, values, exclude }: MeterFilter) {
  return { path, values: [...values], exclude };
}

/** The question that a request asks, of a meter with these groups. Throws INVALID_ARGUMENT. */
export function queryFrom(
  req: QueryMeterRequest,
  { groups, mode }: { groups: readonly { name: string }[]; mode: Mode },
): MeterQuery {
  const names = groups.map(({ name }) => name);
  const groupBy = req.groupBy.map((name, index) => placeOf(name, names, `group_by[${index}]`));
  const filters = req.filters.map(({ path, values, exclude }, index) => ({
    group: placeOf(path, names, `filters[${index}].path`),
    values,
    exclude,
  }));
  return { mode: req.test ? "test" : mode, windows: readWindows(req), groupBy, filters };
}

function placeOf(name: string, names: readonly string[], field: string): number {
  const place = names.indexOf(name);
  if (place === -1) {
    throw invalidArgument([
      { field, description: "must be the name of one of the meter's groups" },
    ]);
  }
  return place;
}

function readWindows(req: QueryMeterRequest): Window[] {
  const size = sizes[req.windowSize] ?? "whole";
  const clock = zoneClock(req.timeZone === "" ? "UTC" : req.timeZone);
  if (clock === null) {
    const description = "must be an IANA zone, for example Asia/Kathmandu";
    throw invalidArgument([{ field: "time_zone", description }]);
  }
  const grainMs = size === "minute" ? minuteMs : quarterMs;
  const startMs = readTime(req.startTime, "start_time", grainMs);
  const endMs = readTime(req.endTime, "end_time", grainMs);
  const daysMax = size === "minute" ? 1 : rangeDaysMax;
  const refuse = (description: string) => invalidArgument([{ field: "end_time", description }]);
  if (endMs <= startMs) {
    throw refuse("must be after `start_time`");
  }
  if (endMs - startMs > daysMax * dayMs) {
    throw refuse(`must be at most ${daysMax === 1 ? "24 hours" : `${daysMax} days`} later`);
  }
  const windows = windowsOf({ startMs, endMs }, size, clock);
  if (windows === null) {
    throw refuse(`must be at most ${windowsMax} windows later`);
  }
  return windows;
}

function readTime(time: Timestamp | undefined, field: string, grainMs: number): number {
  const ms = Number(time?.seconds ?? 0n) * 1_000;
  if (ms < firstMs || ms > lastMs) {
    throw invalidArgument([{ field, description: "must be in the years 2012 to 9998" }]);
  }
  if (time?.nanos !== 0 || ms % grainMs !== 0) {
    const grain = grainMs === minuteMs ? "minute" : "quarter of an hour";
    throw invalidArgument([{ field, description: `must be a whole ${grain}` }]);
  }
  return ms;
}
