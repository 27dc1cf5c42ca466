import { create } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import { expect, test } from "vitest";
import {
  type UsageEvent,
  UsageEventSchema,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { seeded } from "../../test/support/books.ts";
import { checkKnown, checkShape, toEntry } from "./check.ts";

const account = `acc_${"0".repeat(26)}`;
const api = `api_${"0".repeat(26)}`;
const now = new Date("2026-11-20T10:00:00Z");
const nowSeconds = BigInt(now.getTime() / 1_000);
const day = 86_400n;

const price = {
  apiId: api,
  developerId: account,
  version: 3,
  unitNanos: 1_000n,
  feeBasisPoints: 250,
  rule: "",
};

function event(more: Partial<UsageEvent> = {}): UsageEvent {
  return create(UsageEventSchema, {
    source: "s",
    id: "1",
    accountId: account,
    apiId: api,
    ...(more as object),
  });
}

const at = (seconds: bigint, nanos = 0) => ({ time: { seconds, nanos } as never });

/** Values at the edges of each field's limits, the first of them right. */
const edges = {
  source: ["s", "", "x".repeat(200), "x".repeat(201), "😀".repeat(200), "😀".repeat(201), "é"],
  id: ["1", "", "😀".repeat(100), "x".repeat(401)],
  endpoint: ["GET /", "", "😀".repeat(200), "x".repeat(201)],
  accountId: [account, "", "acc_1", `${account}0`, account.toUpperCase(), `acc_${"w".repeat(26)}`],
  apiId: [api, "", account, `${api}\n`],
  statusCode: [200, 0, 599, 600, 4_294_967_295],
  units: [1n, 0n, 1_000_000_000_000n, 1_000_000_000_001n],
  data: ["{}", "", ...[16_376, 16_377].map((size) => `{"a":"${"x".repeat(size)}"}`)].concat(
    [8_188, 8_189].map((size) => `{"a":"${"é".repeat(size)}"}`),
  ),
} satisfies Partial<Record<keyof UsageEvent, unknown[]>>;

test("the check by hand finds what the contract's rules find", () => {
  const validator = createValidator();
  const seed = Math.floor(Math.random() * 2 ** 32);
  const random = seeded(seed);
  const choose = (values: readonly unknown[]) =>
    values[random() < 0.75 ? 0 : Math.floor(random() * values.length)];
  let refused = 0;

  for (let round = 0; round < 3_000; round++) {
    const fields = Object.entries(edges).map(([field, values]) => [field, choose(values)]);
    const one = event(Object.fromEntries(fields));
    const byRules = (validator.validate(UsageEventSchema, one).violations ?? []).map(({ field }) =>
      pathToString(field),
    );
    const byHand = checkShape(one).map(({ field }) => field);

    expect(byHand.sort(), `seed ${seed}, round ${round}`).toEqual([...new Set(byRules)].sort());
    refused += byHand.length > 0 ? 1 : 0;
  }

  expect(refused).toBeGreaterThan(100);
});

test.for([
  [{ source: "a\0b" }, "source"],
  [{ id: "\ud800" }, "id"],
  [{ endpoint: "\0" }, "endpoint"],
  [{ data: "[]" }, "data"],
  [{ data: "null" }, "data"],
  [{ data: '"{}"' }, "data"],
  [{ data: "{} {}" }, "data"],
  [{ data: '{"a":"\0"}' }, "data"],
  [{ data: '{"a":"\udc00"}' }, "data"],
  [{ data: `${'{"a":'.repeat(17)}1${"}".repeat(17)}` }, "data"],
  [{ data: `{"a":${"[".repeat(8_000)}${"]".repeat(8_000)}}` }, "data"],
  [at(0n, -1), "time"],
  [at(0n, 1_000_000_000), "time"],
  [at(253_402_300_800n), "time"],
  [at(-62_135_596_801n), "time"],
] as const)("what the contract's rules do not say is refused too: %#", ([more, field]) => {
  expect(checkShape(event(more)).map((one) => one.field)).toEqual([field]);
});

test.for([
  { data: `${'{"a":'.repeat(16)}1${"}".repeat(16)}` },
  { data: ' {"a": "\\u0000"}\n' },
  at(253_402_300_799n, 999_999_999),
])("what lies within the limits is taken: %#", (more) => {
  expect(checkShape(event(more))).toEqual([]);
});

test.for([
  [at(nowSeconds - 40n * day), ""],
  [at(nowSeconds - 40n * day - 1n), "time"],
  [at(nowSeconds + 300n), ""],
  [at(nowSeconds + 300n, 1_000_000), "time"],
  [at(253_402_300_799n), "time"],
  [{ source: "gateway" }, "source"],
  [{ accountId: `acc_${"1".repeat(26)}` }, "account_id"],
  [{ apiId: `api_${"1".repeat(26)}` }, "api_id"],
] as const)("an event is compared with what there is: %#", ([more, field]) => {
  const known = {
    missingAccounts: new Set([`acc_${"1".repeat(26)}`]),
    prices: new Map([[api, price]]),
    now,
  };

  expect(checkKnown(event(more), known).map((one) => one.field)).toEqual(
    field === "" ? [] : [field],
  );
});

test.for([
  [{}, 1_000n],
  [{ statusCode: 499 }, 1_000n],
  [{ statusCode: 500 }, 0n],
  [{ units: 7n }, 7_000n],
  [{ units: 7n, statusCode: 599 }, 0n],
] as const)("%o costs %i", ([more, charged]) => {
  expect(toEntry(event(more), price, { now }).chargedNanos).toBe(charged);
});

test("an event may cost what the journal takes, and no more", () => {
  const unitNanos = 1_000_000_000n;
  const known = {
    missingAccounts: new Set<string>(),
    prices: new Map([[api, { ...price, unitNanos }]]),
    now,
  };
  const fieldsOf = (units: bigint) => checkKnown(event({ units }), known).map(({ field }) => field);

  expect(fieldsOf(999_999n)).toEqual([]);
  expect(fieldsOf(1_000_000n)).toEqual(["units"]);
});

test("an event keeps its microseconds, and one without a time gets the door's", () => {
  expect(toEntry(event(at(1n, 2_999)), price, { now })).toMatchObject({
    timeMicros: 1_000_002n,
    timeUnset: false,
  });
  expect(toEntry(event(), price, { now })).toMatchObject({
    timeMicros: nowSeconds * 1_000_000n,
    timeUnset: true,
  });
});
