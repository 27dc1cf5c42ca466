import { expect, test } from "vitest";
import { addMonths, bookedMonth, monthOf } from "./booked-month.ts";

const closed = new Map([
  ["2026-09-01", 100n],
  ["2026-10-01", 200n],
  ["2026-12-01", 200n],
]);

test.for([
  ["2026-09-01", 100n, "2026-09-01"],
  ["2026-09-01", 101n, "2026-10-01"],
  ["2026-09-01", 200n, "2026-10-01"],
  ["2026-09-01", 201n, "2026-11-01"],
  ["2026-11-01", 201n, "2026-11-01"],
  ["2026-12-01", 201n, "2027-01-01"],
  ["2026-08-01", 100n, "2026-08-01"],
  ["2026-08-01", 101n, "2026-10-01"],
  ["2026-08-01", 500n, "2026-11-01"],
  ["2027-02-01", 500n, "2027-02-01"],
] as const)("an event of %s at position %s is booked in %s", ([own, position, booked]) => {
  expect(bookedMonth(own, position, closed)).toBe(booked);
});

test("months are those of UTC", () => {
  expect(monthOf(new Date("2026-11-30T23:59:59.999Z"))).toBe("2026-11-01");
  expect(monthOf(new Date("2026-12-01T00:30:00+01:00"))).toBe("2026-11-01");
  expect(addMonths("2026-01-01", -2)).toBe("2025-11-01");
  expect(addMonths("2026-12-01", 1)).toBe("2027-01-01");
});
