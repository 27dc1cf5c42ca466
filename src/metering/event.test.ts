import { expect, test } from "vitest";
import { bucketOf, eventHash, journalEvent } from "./event.ts";

test("events that differ in any part have different hashes, wherever their parts are cut", () => {
  const events = [
    [],
    [""],
    ["", ""],
    ["a", "b-c"],
    ["a-b", "c"],
    ["ab", ""],
    ["", "ab"],
    ["1:a", "b"],
    ["a1:b"],
    ["a", "1:b"],
    ["é"],
    ["e\u0301"],
  ];

  expect(new Set(events.map(eventHash)).size).toBe(events.length);
  expect(eventHash(["a", "b"])).toBe(eventHash(["a", "b"]));
});

test.for([
  ["2026-11-20T10:00:00.000Z", "2026-11-20T10:00:00.000Z"],
  ["2026-11-20T10:14:59.999Z", "2026-11-20T10:00:00.000Z"],
  ["2026-11-20T10:15:00Z", "2026-11-20T10:15:00.000Z"],
  ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"],
] as const)("%s is counted with the quarter of an hour from %s", ([time, bucket]) => {
  expect(bucketOf(time)).toBe(bucket);
});

const event = {
  source: "s",
  id: "1",
  account: `acc_${"0".repeat(26)}`,
  mode: "live",
  api: `api_${"0".repeat(26)}`,
  developer: `acc_${"1".repeat(26)}`,
  key: null,
  endpoint: "",
  status: 200,
  time: "2026-11-20T10:00:00.000Z",
  priceVersion: 1,
  feeBasisPoints: 0,
  charged: "007",
  lease: null,
  hash: "0".repeat(64),
};

test("an amount is read exactly, beyond what a number holds", () => {
  const charged = "900719925474099";

  expect(journalEvent.parse({ ...event, charged }).charged).toBe(900_719_925_474_099n);
  expect(journalEvent.parse(event).charged).toBe(7n);
});

test.for([
  { charged: "1e3" },
  { charged: "+1" },
  { charged: "" },
  { charged: "1.5" },
  { charged: "1".repeat(16) },
  { status: -1 },
  { status: 200.5 },
  { status: 2 ** 31 },
  { priceVersion: 2 ** 31 },
  { time: "0000-01-01T00:00:00Z" },
  { time: "2026-02-30T00:00:00Z" },
  { time: "2026-11-20" },
  { source: "" },
  { source: "x".repeat(201) },
  { account: "acc_1" },
  { api: null },
  { feeBasisPoints: 10_001 },
  { lease: undefined },
])("what a column would refuse does not pass: %j", (wrong) => {
  expect(journalEvent.safeParse({ ...event, ...wrong }).success).toBe(false);
});
