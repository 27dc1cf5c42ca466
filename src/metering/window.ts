const minuteMs = 60_000;
const quarterMs = 15 * minuteMs;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;

/** Windows that one question may have. */
export const windowsMax = 2_000;

/** How long a window is. */
export type WindowSize = "whole" | "minute" | "hour" | "day" | "week" | "month";

/** A range of time in milliseconds: the start is inside, the end is not. */
export interface Window {
  startMs: number;
  endMs: number;
}

/** A stretch of time in which the zone's clock is ahead of UTC by one offset. */
interface Stretch extends Window {
  offsetMs: number;
}

/** What `zoneClock` makes: how far a zone's clock is ahead of UTC at a time. */
export type ZoneClock = (timeMs: number) => number;

/** The clock of an IANA zone. Null when there is no such zone. */
export function zoneClock(zone: string): ZoneClock | null {
  const format = openFormat(zone);
  return format === null ? null : (timeMs) => offsetAt(format, timeMs);
}

/**
 * Cut a range into windows by the clock of a zone: they follow each other without a gap, and the first and the last
 * are cut by the range. Null when there are more than `windowsMax`.
 *
 * A day starts when its date is first shown, so it has 23 or 25 hours when the clock changes, and one that the zone
 * left out has no window. An hour starts with each full hour, and when the clock is put back. From 2012 on clocks
 * change at whole quarters of an hour of UTC; starts of windows are whole quarters, too, except of minutes.
 */
export function windowsOf(range: Window, size: WindowSize, clock: ZoneClock): Window[] | null {
  switch (size) {
    case "whole":
      return between(range, []);
    case "minute":
      return between(range, steps(range, minuteMs));
    case "hour":
      return between(range, hourStarts(range, clock));
    default:
      return between(range, dateStarts(range, size, clock));
  }
}

/** The windows between the starts that are inside the range. */
function between(range: Window, starts: Iterable<number>): Window[] | null {
  const windows: Window[] = [];
  let startMs = range.startMs;
  for (const next of starts) {
    if (next >= range.endMs) {
      break;
    }
    if (next > startMs) {
      windows.push({ startMs, endMs: next });
      startMs = next;
    }
    if (windows.length === windowsMax) {
      return null;
    }
  }
  return [...windows, { startMs, endMs: range.endMs }];
}

function* steps({ startMs, endMs }: Window, stepMs: number): Iterable<number> {
  for (let at = Math.floor(startMs / stepMs) * stepMs; at < endMs; at += stepMs) {
    yield at;
  }
}

function* hourStarts(range: Window, clock: ZoneClock): Iterable<number> {
  let before: Stretch | undefined;
  for (const stretch of stretches(range, clock)) {
    const { startMs, endMs, offsetMs } = stretch;
    if (before !== undefined && startsHour(before, stretch)) {
      yield startMs;
    }
    for (const local of steps({ startMs: startMs + offsetMs, endMs: endMs + offsetMs }, hourMs)) {
      yield local - offsetMs;
    }
    before = stretch;
  }
}

/** Whether a change of the clock shows another hour, or one for the second time. */
function startsHour(before: Stretch, { startMs, offsetMs }: Stretch): boolean {
  const last = Math.floor((startMs - 1 + before.offsetMs) / hourMs);
  return offsetMs < before.offsetMs || Math.floor((startMs + offsetMs) / hourMs) !== last;
}

function* dateStarts(
  range: Window,
  size: "day" | "week" | "month",
  clock: ZoneClock,
): Iterable<number> {
  const all = [...stretches({ startMs: range.startMs, endMs: range.endMs + 2 * dayMs }, clock)];
  let midnight = firstMidnight(range.startMs + clock(range.startMs), size);
  let at = range.startMs;
  while (at < range.endMs) {
    midnight = nextMidnight(midnight, size);
    at = firstShown(all, midnight);
    yield at;
  }
}

/** The local midnight, as if of UTC, with which the day, the week or the month of a local time begins. */
function firstMidnight(localMs: number, size: "day" | "week" | "month"): number {
  const day = Math.floor(localMs / dayMs) * dayMs;
  const date = new Date(day);
  switch (size) {
    case "day":
      return day;
    case "week":
      return day - ((date.getUTCDay() + 6) % 7) * dayMs;
    case "month":
      return Date.UTC(date.getUTCFullYear(), date.getUTCMonth());
  }
}

function nextMidnight(midnight: number, size: "day" | "week" | "month"): number {
  const date = new Date(midnight);
  switch (size) {
    case "day":
      return midnight + dayMs;
    case "week":
      return midnight + 7 * dayMs;
    case "month":
      return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1);
  }
}

/** When the clock first shows a local time, or, when it leaves it out, first shows a later one. */
function firstShown(all: readonly Stretch[], localMs: number): number {
  for (const { startMs, endMs, offsetMs } of all) {
    const at = localMs - offsetMs;
    if (at < endMs) {
      return Math.max(at, startMs);
    }
  }
  return Number.POSITIVE_INFINITY;
}

/** The stretches of a range, in order, the first and the last cut by it. */
function* stretches({ startMs, endMs }: Window, clock: ZoneClock): Iterable<Stretch> {
  let start = startMs;
  let offsetMs = clock(start);
  // No zone changes its clock twice within a day.
  for (let at = startMs; at < endMs; at += dayMs) {
    const next = Math.min(at + dayMs, endMs);
    if (clock(next) !== offsetMs) {
      const change = findChange({ startMs: at, endMs: next }, clock);
      yield { startMs: start, endMs: change, offsetMs };
      start = change;
      offsetMs = clock(change);
    }
  }
  if (start < endMs) {
    yield { startMs: start, endMs, offsetMs };
  }
}

/** The first minute at which the clock is not as at the start. It is as at the end from there on. */
function findChange({ startMs, endMs }: Window, clock: ZoneClock): number {
  const offsetMs = clock(startMs);
  let [before, after] = [startMs, endMs];
  while (after - before > minuteMs) {
    const middle = Math.floor((before + after) / 2 / minuteMs) * minuteMs;
    if (clock(middle) === offsetMs) {
      before = middle;
    } else {
      after = middle;
    }
  }
  return after;
}

function openFormat(zone: string): Intl.DateTimeFormat | null {
  try {
    return new Intl.DateTimeFormat("en-US", {
      timeZone: zone,
      timeZoneName: "longOffset",
      year: "numeric",
    });
  } catch {
    return null;
  }
}

const offsetPattern = /GMT(?:([+-])(\d\d):(\d\d))?$/;

function offsetAt(format: Intl.DateTimeFormat, timeMs: number): number {
  const [, sign, hours, minutes] = offsetPattern.exec(format.format(timeMs)) ?? [];
  const offsetMs = Number(hours ?? 0) * hourMs + Number(minutes ?? 0) * minuteMs;
  return sign === "-" ? -offsetMs : offsetMs;
}

/** The quarter of an hour that a time lies in. */
export function quarterOf(timeMs: number): number {
  return Math.floor(timeMs / quarterMs) * quarterMs;
}
