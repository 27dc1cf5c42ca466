import { expect, test } from "vitest";
import { usage } from "../../test/support/books.ts";
import {
  bodyHash,
  bucketMicrosOf,
  identityKey,
  monthOf,
  shardCount,
  shardOf,
  timeText,
} from "./entry.ts";

const account = `acc_${"0".repeat(26)}`;
const entry = usage({ account, developer: account, id: "1" });

test("what the sender said makes the hash, what the door added does not", () => {
  const said = [
    entry,
    { ...entry, endpoint: "GET /y" },
    { ...entry, status: 0 },
    { ...entry, mode: "test" as const },
    { ...entry, timeUnset: true },
    { ...entry, timeMicros: entry.timeMicros + 1n },
    { ...entry, data: "{}" },
    { ...entry, units: 2n },
    { ...entry, requestId: "r" },
    { ...entry, price: { ...entry.price, apiId: `api_${"1".repeat(26)}` } },
  ];
  const added = [
    { ...entry, chargedNanos: 5n, lease: "lea_1" },
    { ...entry, units: 0n },
    { ...entry, price: { ...entry.price, version: 2, unitNanos: 9n, feeBasisPoints: 9 } },
  ];

  expect(new Set(said.map((one) => bodyHash(one).toString("hex"))).size).toBe(said.length);
  for (const one of added) {
    expect(bodyHash(one)).toEqual(bodyHash(entry));
  }
});

test("two identities have one key only when they are the same, wherever they are cut", () => {
  const identities = [
    ["a", "b-c"],
    ["a-b", "c"],
    ["ab", ""],
    ["1:a", "b"],
    ["1", ":ab"],
    ["é", "1"],
    ["e\u0301", "1"],
  ] as const;

  expect(new Set(identities.map(([source, id]) => identityKey(source, id))).size).toBe(
    identities.length,
  );
  expect(identityKey("é", "x")).toBe("2:éx");
});

test.for([
  ["2026-11-20T10:00:00.000Z", "2026-11-20T10:00:00.000Z"],
  ["2026-11-20T10:14:59.999Z", "2026-11-20T10:00:00.000Z"],
  ["2026-11-20T10:15:00Z", "2026-11-20T10:15:00.000Z"],
  ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"],
] as const)("%s is counted with the quarter of an hour from %s", ([time, bucket]) => {
  const micros = bucketMicrosOf(BigInt(Date.parse(time)) * 1_000n + 999n);

  expect(timeText(micros)).toBe(bucket);
});

test("a time keeps its microseconds, and lies in its month of UTC", () => {
  expect(timeText(1_000_001n)).toBe("1970-01-01T00:00:01.000001Z");
  expect(timeText(1_000_000n)).toBe("1970-01-01T00:00:01.000Z");
  expect(monthOf(BigInt(Date.parse("2026-10-31T23:59:59.999Z")) * 1_000n)).toBe("2026-10-01");
});

test("accounts are spread over the shards, each always in the same", () => {
  const shards = Array.from({ length: 1_000 }, (_, index) => shardOf(`acc_${index}`, shardCount));

  expect(shards.filter((shard) => shard === 0).length).toBeGreaterThan(400);
  expect(shards.filter((shard) => shard === 1).length).toBeGreaterThan(400);
  expect(shardOf("acc_00000000000000000000000000", shardCount)).toBe(shardOf(account, shardCount));
});
