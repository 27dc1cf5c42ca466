import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { CreateKeyRequestSchema } from "../../gen/callora/keys/v1/key_service_pb.ts";
import { CreateMeterRequestSchema } from "../../gen/callora/metering/v1/meter_service_pb.ts";
import { RecordUsageRequestSchema } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { malformedFields } from "./well-formed.ts";

test("text with U+0000 is refused wherever it stands, and the field is named", () => {
  const request = create(CreateMeterRequestSchema, {
    slug: "\0",
    groups: [
      { name: "a", path: "b" },
      { name: "a\0", path: "\0b" },
    ],
  });

  const fields = malformedFields(CreateMeterRequestSchema, request).map(({ field }) => field);

  expect(fields).toEqual(["slug", "groups[1].name", "groups[1].path"]);
});

test("what the contract leaves to the handler is passed by", () => {
  const events = [{ source: "a\0", time: { seconds: 0n, nanos: -1 } }];
  const request = create(RecordUsageRequestSchema, { events });

  expect(malformedFields(RecordUsageRequestSchema, request)).toEqual([]);
});

test.for([
  { seconds: 1n << 60n, nanos: 0 },
  { seconds: 253_402_300_800n, nanos: 0 },
  { seconds: -62_135_596_801n, nanos: 0 },
  { seconds: 0n, nanos: -1 },
  { seconds: 0n, nanos: 1_000_000_000 },
])("the time of $seconds s and $nanos ns is refused", (expireTime) => {
  const request = create(CreateKeyRequestSchema, { expireTime });

  expect(malformedFields(CreateKeyRequestSchema, request)).toEqual([
    { field: "expire_time", description: "must be a time in the years 1 to 9999" },
  ]);
});

test.for([
  { seconds: 253_402_300_799n, nanos: 999_999_999 },
  { seconds: -62_135_596_800n, nanos: 0 },
])("the time of $seconds s and $nanos ns is accepted", (expireTime) => {
  const request = create(CreateKeyRequestSchema, { expireTime, displayName: "any text\n🐎" });

  expect(malformedFields(CreateKeyRequestSchema, request)).toEqual([]);
});

test("a request with many faults names some of them", () => {
  const groups = Array.from({ length: 500 }, () => ({ name: "\0", path: "\0" }));

  const found = malformedFields(
    CreateMeterRequestSchema,
    create(CreateMeterRequestSchema, { groups }),
  );

  expect(found).toHaveLength(20);
});
