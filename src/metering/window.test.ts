import fc from "fast-check";
import { expect, test } from "vitest";
import { type WindowSize, windowsMax, windowsOf, type ZoneClock, zoneClock } from "./window.ts";

const quarterMs = 15 * 60_000;

function clockOf(zone: string): ZoneClock {
  const clock = zoneClock(zone);
  if (clock === null) {
    throw new Error(`Cannot find zone ${zone}`);
  }
  return clock;
}

function windows(zone: string, size: WindowSize, from: string, to: string): string[] {
  const range = { startMs: Date.parse(from), endMs: Date.parse(to) };
  const found = windowsOf(range, size, clockOf(zone)) ?? [];
  return [...found.map(({ startMs }) => startMs), found.at(-1)?.endMs ?? 0].map((at) =>
    new Date(at).toISOString().replace(":00.000Z", "Z"),
  );
}

test("days have 23 and 25 hours when New York changes its clocks", () => {
  expect(windows("America/New_York", "day", "2026-03-07T05:00Z", "2026-03-10T04:00Z")).toEqual([
    "2026-03-07T05:00Z",
    "2026-03-08T05:00Z",
    "2026-03-09T04:00Z",
    "2026-03-10T04:00Z",
  ]);
  expect(windows("America/New_York", "day", "2026-10-31T04:00Z", "2026-11-03T05:00Z")).toEqual([
    "2026-10-31T04:00Z",
    "2026-11-01T04:00Z",
    "2026-11-02T05:00Z",
    "2026-11-03T05:00Z",
  ]);
});

test("the hour that comes twice has two windows", () => {
  expect(windows("America/New_York", "hour", "2026-11-01T05:00Z", "2026-11-01T07:30Z")).toEqual([
    "2026-11-01T05:00Z",
    "2026-11-01T06:00Z",
    "2026-11-01T07:00Z",
    "2026-11-01T07:30Z",
  ]);
});

test("half an hour that comes twice, or never, is a window of its own", () => {
  // Lord Howe Island puts its clock back at 15:00Z from 02:00 to 01:30, and on at 15:30Z from 02:00 to 02:30.
  expect(windows("Australia/Lord_Howe", "hour", "2026-04-04T14:00Z", "2026-04-04T16:30Z")).toEqual([
    "2026-04-04T14:00Z",
    "2026-04-04T15:00Z",
    "2026-04-04T15:30Z",
    "2026-04-04T16:30Z",
  ]);
  expect(windows("Australia/Lord_Howe", "hour", "2026-10-03T14:30Z", "2026-10-03T17:00Z")).toEqual([
    "2026-10-03T14:30Z",
    "2026-10-03T15:30Z",
    "2026-10-03T16:00Z",
    "2026-10-03T17:00Z",
  ]);
  expect(windows("Australia/Lord_Howe", "day", "2026-04-03T13:00Z", "2026-04-05T13:30Z")).toEqual([
    "2026-04-03T13:00Z",
    "2026-04-04T13:00Z",
    "2026-04-05T13:30Z",
  ]);
});

test("a zone three quarters of an hour off has its own days and hours", () => {
  expect(windows("Asia/Kathmandu", "day", "2026-01-01T12:00Z", "2026-01-02T20:00Z")).toEqual([
    "2026-01-01T12:00Z",
    "2026-01-01T18:15Z",
    "2026-01-02T18:15Z",
    "2026-01-02T20:00Z",
  ]);
  expect(windows("Asia/Kathmandu", "hour", "2026-01-01T12:00Z", "2026-01-01T13:30Z")).toEqual([
    "2026-01-01T12:00Z",
    "2026-01-01T12:15Z",
    "2026-01-01T13:15Z",
    "2026-01-01T13:30Z",
  ]);
});

test("the day that Apia left out has no window", () => {
  expect(windows("Pacific/Apia", "day", "2011-12-29T10:00Z", "2012-01-01T10:00Z")).toEqual([
    "2011-12-29T10:00Z",
    "2011-12-30T10:00Z",
    "2011-12-31T10:00Z",
    "2012-01-01T10:00Z",
  ]);
});

test("a day whose midnight is left out, or comes twice, starts when its date is first shown", () => {
  // São Paulo left out 00:00 to 01:00 of 4 November 2018, and had 23:00 to 24:00 of 17 February 2018 twice.
  expect(windows("America/Sao_Paulo", "day", "2018-11-03T03:00Z", "2018-11-05T02:00Z")).toEqual([
    "2018-11-03T03:00Z",
    "2018-11-04T03:00Z",
    "2018-11-05T02:00Z",
  ]);
  expect(windows("America/Sao_Paulo", "day", "2018-02-17T02:00Z", "2018-02-19T03:00Z")).toEqual([
    "2018-02-17T02:00Z",
    "2018-02-18T03:00Z",
    "2018-02-19T03:00Z",
  ]);
  // Havana puts its clock back from 01:00 to 00:00.
  expect(windows("America/Havana", "day", "2026-10-31T04:00Z", "2026-11-02T05:00Z")).toEqual([
    "2026-10-31T04:00Z",
    "2026-11-01T04:00Z",
    "2026-11-02T05:00Z",
  ]);
});

test("weeks start on Monday, months on the first, and the range cuts both", () => {
  expect(windows("UTC", "week", "2026-08-29T00:00Z", "2026-09-08T00:00Z")).toEqual([
    "2026-08-29T00:00Z",
    "2026-08-31T00:00Z",
    "2026-09-07T00:00Z",
    "2026-09-08T00:00Z",
  ]);
  expect(windows("Europe/Berlin", "month", "2026-02-10T00:00Z", "2026-05-01T00:00Z")).toEqual([
    "2026-02-10T00:00Z",
    "2026-02-28T23:00Z",
    "2026-03-31T22:00Z",
    "2026-04-30T22:00Z",
    "2026-05-01T00:00Z",
  ]);
  expect(windows("UTC", "month", "2024-02-01T00:00Z", "2024-03-01T00:00Z")).toEqual([
    "2024-02-01T00:00Z",
    "2024-03-01T00:00Z",
  ]);
});

test("a question of too many windows has no answer", () => {
  const startMs = Date.parse("2026-01-01T00:00Z");
  const of = (hours: number) =>
    windowsOf({ startMs, endMs: startMs + hours * 3_600_000 }, "hour", clockOf("UTC"));

  expect(of(windowsMax)).toHaveLength(windowsMax);
  expect(of(windowsMax + 1)).toBeNull();
});

test.for(["", "Mars/Base", "America/New_York\0", "../etc/passwd", "UTC;", "x".repeat(10_000)])(
  "%j is no zone",
  (zone) => {
    expect(zoneClock(zone)).toBeNull();
  },
);

test("every zone is whole quarters of an hour from UTC since 1980", () => {
  for (const zone of Intl.supportedValuesOf("timeZone")) {
    const clock = clockOf(zone);
    for (let year = 1980; year < 2040; year += 1) {
      expect(Math.abs(clock(Date.UTC(year, 0))) % quarterMs, zone).toBe(0);
      expect(Math.abs(clock(Date.UTC(year, 6))) % quarterMs, zone).toBe(0);
    }
  }
});

const zones = [
  "UTC",
  "America/New_York",
  "Asia/Kathmandu",
  "Australia/Lord_Howe",
  "Pacific/Apia",
  "America/Sao_Paulo",
  "America/Havana",
  "Africa/Casablanca",
  "Asia/Beirut",
  "Pacific/Chatham",
  "Europe/London",
];

/** What a zone's clock shows, read without the module under test. */
function shown(zone: string): (timeMs: number) => { date: string; hour: string; time: string } {
  const format = new Intl.DateTimeFormat("sv-SE", {
    timeZone: zone,
    dateStyle: "short",
    timeStyle: "medium",
  });
  return (timeMs) => {
    const time = format.format(timeMs);
    return { date: time.slice(0, 10), hour: time.slice(0, 13), time };
  };
}

function monday(date: string): string {
  const day = new Date(`${date}T00:00:00Z`);
  day.setUTCDate(day.getUTCDate() - ((day.getUTCDay() + 6) % 7));
  return day.toISOString().slice(0, 10);
}

const starts = [
  // Around changes of the clock of one or the other.
  ...["2011-12-28", "2018-02-16", "2018-11-02", "2026-03-06", "2026-03-27", "2026-04-02"],
  ...["2026-09-25", "2026-10-02", "2026-10-30", "2026-12-30", "2024-02-27", "2025-02-21"],
].map((date) => Date.parse(`${date}T00:00:00Z`));

test("windows follow each other, and each holds all that the clock shows of one hour, day, week or month", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...zones),
      fc.constantFrom("hour" as const, "day" as const, "week" as const, "month" as const),
      fc.constantFrom(...starts),
      fc.nat(96 * 3),
      fc.integer({ min: 1, max: 96 * 12 }),
      (zone, size, dayMs, offset, length) => {
        const startMs = dayMs + offset * quarterMs;
        const endMs = startMs + length * quarterMs;
        const found = windowsOf({ startMs, endMs }, size, clockOf(zone)) ?? [];
        const read = shown(zone);
        const label = (timeMs: number) => {
          const { date, hour } = read(timeMs);
          const labels = { hour, day: date, week: monday(date), month: date.slice(0, 7) };
          return labels[size];
        };
        const expected = [startMs];
        for (let at = startMs + quarterMs; at < endMs; at += quarterMs) {
          const wentBack = size === "hour" && read(at).time < read(at - quarterMs).time;
          if (wentBack || label(at) !== label(at - quarterMs)) {
            expected.push(at);
          }
        }

        expect(found.map((one) => one.startMs)).toEqual(expected);
        expect(found.map((one) => one.endMs)).toEqual([...expected.slice(1), endMs]);
      },
    ),
    { numRuns: 300 },
  );
});
