import { expect, test } from "vitest";
import { parseEnd, parseStart, rangeProblem } from "./range.ts";

test.for([
  ["2026-01-31", "2026-01-31T00:00:00.000Z", "2026-02-01T00:00:00.000Z"],
  ["2024-02-29", "2024-02-29T00:00:00.000Z", "2024-03-01T00:00:00.000Z"],
  ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z", "2026-01-31T12:00:00.001Z"],
  ["2026-01-31T12:00Z", "2026-01-31T12:00:00.000Z", "2026-01-31T12:00:00.001Z"],
  ["2026-01-31T12:00:00.5+02:00", "2026-01-31T10:00:00.500Z", "2026-01-31T10:00:00.501Z"],
  ["2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00.000Z", "2025-12-31T23:30:00.001Z"],
] as const)("%s starts at %s and ends before %s", ([text, start, end]) => {
  expect(parseStart(text)?.toISOString()).toBe(start);
  expect(parseEnd(text)?.toISOString()).toBe(end);
});

test.for([
  "",
  "today",
  "2026",
  "2026-1-1",
  "2026-02-30",
  "2025-02-29",
  "2026-02-30T00:00:00Z",
  "2026-13-01",
  "2026-01-01T24:00:00Z",
  "2026-01-01T25:00:00Z",
  "2026-01-01T00:60:00Z",
  "2026-01-01T00:00:60Z",
  "2026-01-01T00:00:00",
  "2026-01-01T00:00:00+99:99",
  "2026-01-01 00:00:00Z",
  "2026-01-01\n",
  "20260101",
  "+010000-01-01",
  "1767225600",
])('"%s" is no time', (text) => {
  expect(parseStart(text)).toBeNull();
  expect(parseEnd(text)).toBeNull();
});

test.for([
  { from: "2026-01-01", to: "2026-01-01", problem: null },
  { from: "2026-01-02", to: "2026-01-01", problem: "must be before" },
  { from: "2025-01-01", to: "2026-02-04", problem: null },
  { from: "2025-01-01", to: "2026-02-05", problem: "at most 400 days" },
  { from: "0000-01-01", to: "0000-01-02", problem: "years 1970 to 9998" },
  { from: "1969-12-31", to: "1970-01-01", problem: "years 1970 to 9998" },
  { from: "9999-12-31", to: "9999-12-31", problem: "years 1970 to 9998" },
])("the range from $from to $to: $problem", ({ from, to, problem }) => {
  const found = rangeProblem({
    from: parseStart(from) ?? new Date(Number.NaN),
    to: parseEnd(to) ?? new Date(Number.NaN),
  });

  if (problem === null) {
    expect(found).toBeNull();
  } else {
    expect(found).toContain(problem);
  }
});
