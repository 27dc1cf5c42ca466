import { expect, test } from "vitest";
import { fromPayload, toPayloads } from "./announcement.ts";

test("many keys become payloads that PostgreSQL takes, the last of them marked", () => {
  const keys = Array.from({ length: 1_000 }, (_, index) => `é"${index}`.repeat(5));

  const payloads = toPayloads({ epoch: 2n ** 62n, topic: "t", keys });

  const read = payloads.map(fromPayload);
  expect(payloads.every((payload) => Buffer.byteLength(payload) < 8_000)).toBe(true);
  expect(read.flatMap((part) => part?.keys ?? [])).toEqual(keys);
  expect(read.map((part) => part?.isLast)).toEqual(
    payloads.map((_, i) => i === payloads.length - 1),
  );
  expect(read.every((part) => part?.epoch === 2n ** 62n && part.topic === "t")).toBe(true);
});

test("an announcement of no keys counts too", () => {
  const [payload = "", ...more] = toPayloads({ epoch: 7n, topic: "t", keys: [] });

  expect(more).toEqual([]);
  expect(fromPayload(payload)).toEqual({ epoch: 7n, topic: "t", keys: [], isLast: true });
});

test("a key that no payload has room for is refused", () => {
  expect(() => toPayloads({ epoch: 1n, topic: "t", keys: ["x".repeat(600)] })).toThrow("so long");
});

test.for(["", "{", "null", "[]", '{"epoch":1,"topic":"t","keys":[],"last":true}', '{"epoch":"x"}'])(
  "%s is no announcement",
  (payload) => {
    expect(fromPayload(payload)).toBeNull();
  },
);
