import { createHash } from "node:crypto";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import {
  JournalEntrySchema,
  JournalRowSchema,
  type Outcome,
} from "../../gen/callora/metering/v1/journal_pb.ts";
import { usage } from "../../test/support/books.ts";
import { decodeRow, encodeRow } from "./codec.ts";
import type { Entry } from "./entry.ts";

const account = `acc_${"0".repeat(26)}`;
const developer = `acc_${"1".repeat(26)}`;
const entry = usage({ account, developer, id: "1" });

const longRule = JSON.stringify([
  "5",
  [],
  "graduated",
  "call",
  "1",
  "1",
  ["path", "$.".padEnd(4_096, "a"), "0"],
  5,
]);

test("a row of every kind of entry is read back as it was written", () => {
  const entries: Entry[] = [
    entry,
    { ...entry, id: "é\u{1f600}", lease: "lea_1", keyId: "key_1", requestId: "r", mode: "test" },
    { ...entry, kind: "replay", replays: { position: 7n, ordinal: 0 }, data: '{"a":1}', units: 3n },
    { ...entry, price: { ...entry.price, version: 2, unitNanos: 900_719_925_474_099n } },
    { ...entry, timeMicros: 0n, timeUnset: true, status: 0, units: 0n, chargedNanos: 0n },
    {
      kind: "adjust",
      account,
      source: "s",
      id: "1",
      correctionId: `cor_${"0".repeat(26)}`,
      adjustedNanos: 5n,
      reason: "x",
    },
    {
      kind: "void",
      account,
      source: "s",
      id: "1",
      correctionId: `cor_${"0".repeat(26)}`,
      adjustedNanos: 0n,
      reason: "x",
    },
  ];

  expect(decodeRow({ codec: 1, body: encodeRow(entries) }).entries).toEqual(entries);
});

test.for<[string, Partial<typeof entry>]>([
  ["charge", { chargedNanos: 10n ** 15n }],
  ["status", { status: 1_000 }],
  ["source", { source: "" }],
  ["id that is long", { id: "x".repeat(401) }],
  ["id with NUL", { id: "a\0b" }],
  ["account", { account: "acc_1" }],
  ["time", { timeMicros: 2n ** 60n }],
  ["share", { price: { ...entry.price, feeBasisPoints: 10_001 } }],
  ["API", { price: { ...entry.price, apiId: "" } }],
  ["rule", { price: { ...entry.price, rule: '["1"]' } }],
  ["rule that is long", { price: { ...entry.price, rule: longRule } }],
  ["units before it", { unitsBefore: 1_000_000_000_001n }],
])("an entry whose %s a column would refuse is malformed, and stops no other", ([, wrong]) => {
  const { entries } = decodeRow({ codec: 1, body: encodeRow([{ ...entry, ...wrong }, entry]) });

  expect(entries).toMatchObject([{ kind: "malformed" }, entry]);
});

test("an entry whose outcome nobody knows is malformed", () => {
  const written = fromBinary(JournalRowSchema, encodeRow([entry, { ...entry, outcome: "failed" }]));
  const [first] = written.entries;
  if (first === undefined) {
    throw new Error("Cannot read the row");
  }
  first.outcome = 5 as Outcome;
  const body = Buffer.from(toBinary(JournalRowSchema, written));

  expect(decodeRow({ codec: 1, body }).entries).toMatchObject([
    { kind: "malformed", detail: "the entry makes no sense: outcome" },
    { outcome: "failed" },
  ]);
});

test("an entry that says nothing of rules has the bytes that earlier versions gave it", () => {
  const bytes = createHash("sha256")
    .update(encodeRow([entry]))
    .digest("hex");

  expect(bytes).toBe("72086cabbd32ead93fef3c6ca35f62e6118586850fcf38003eecbfbd2c36dc80");
});

test("bytes that are no row are one malformed entry, as they came", () => {
  const body = Buffer.from([0xff, 0xff, 0xff]);

  expect(decodeRow({ codec: 1, body }).entries).toMatchObject([{ kind: "malformed", raw: body }]);
  expect(decodeRow({ codec: 0, body }).entries).toMatchObject([{ kind: "malformed", raw: body }]);
});

test("an entry that names what the row does not have is malformed", () => {
  const lost = Buffer.from(toBinary(JournalEntrySchema, create(JournalEntrySchema, { kind: 1 })));
  const body = Buffer.concat([Buffer.from([0x1a, lost.length]), lost]);

  expect(decodeRow({ codec: 1, body }).entries).toMatchObject([{ kind: "malformed", raw: lost }]);
});

const event = {
  source: "s",
  id: "1",
  account,
  mode: "live",
  api: `api_${"0".repeat(26)}`,
  developer,
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

function readJson(events: unknown) {
  return decodeRow({ codec: 0, body: Buffer.from(JSON.stringify(events)) }).entries;
}

test("an amount of a JSON row is read exactly, beyond what a number holds", () => {
  const charged = "900719925474099";

  expect(readJson([{ ...event, charged }])).toMatchObject([
    { chargedNanos: 900_719_925_474_099n, keptHash: Buffer.alloc(32) },
  ]);
  expect(readJson([event])).toMatchObject([{ chargedNanos: 7n }]);
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
])("what a column would refuse of a JSON row does not pass: %j", (wrong) => {
  expect(readJson([{ ...event, ...wrong }])).toMatchObject([{ kind: "malformed" }]);
});
