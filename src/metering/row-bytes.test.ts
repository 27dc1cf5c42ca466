import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { JournalRowSchema } from "../../gen/callora/metering/v1/journal_pb.ts";
import { seeded } from "../../test/support/books.ts";
import { outcomes } from "../catalog/price-rule.ts";
import { decodeRow, encodeRow, readRow } from "./codec.ts";
import type { Entry } from "./entry.ts";
import { readUsualRow } from "./row-reader.ts";

/** Chooses by a seed, which is printed when a test fails. */
function createChance() {
  const seed = Math.floor(Math.random() * 2 ** 32);
  const random = seeded(seed);
  const below = (count: number) => Math.floor(random() * count);
  const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;
  return { seed, below, pick };
}

type Chance = ReturnType<typeof createChance>;

const texts = ["a", "GET /v1/search", "é", "😀", "x".repeat(63), "x".repeat(64), "x".repeat(65)];
const longTexts = [
  ...texts,
  "",
  "é".repeat(64),
  "x".repeat(127),
  "y".repeat(128),
  "😀".repeat(100),
];
const numbers = [0n, 1n, 127n, 128n, 16_384n, 2n ** 31n, 2n ** 32n, 999_999_999_999_999n];
const data = ["", "{}", `{"a":"${"é".repeat(60)}"}`, `{"a":"${"x".repeat(16_000)}"}`];
const digits = ["0", "1", "2"];
const rules = [
  "",
  '["5",[],"graduated","call","1","1",null,5]',
  '["5",[["10","3"],[null,"2"]],"volume","month","1000","80",["path","$.é","7"],0]',
];

function randomEntry({ pick, below }: Chance): Entry {
  const identity = {
    account: `acc_${pick(digits).repeat(26)}`,
    source: pick(texts),
    id: pick(texts),
  };
  if (below(5) === 0) {
    const correctionId = `cor_${pick(digits).repeat(26)}`;
    const kind = pick(["void", "adjust"] as const);
    return {
      ...identity,
      kind,
      correctionId,
      adjustedNanos: pick(numbers),
      reason: pick(longTexts),
    };
  }
  return {
    ...identity,
    kind: pick(["usage", "replay"]),
    price: {
      apiId: `api_${pick(digits).repeat(26)}`,
      developerId: `acc_${pick(digits).repeat(26)}`,
      version: pick([0, 1, 128, 2 ** 31 - 1]),
      unitNanos: pick(numbers),
      feeBasisPoints: pick([0, 250, 10_000]),
      rule: pick(rules),
    },
    endpoint: pick(longTexts),
    status: pick([0, 200, 599, 999]),
    timeMicros: pick([0n, 1n, 1_795_168_800_123_456n, 32_503_680_000_000_000n]),
    timeUnset: pick([true, false]),
    mode: pick(["live", "test"]),
    data: pick(data),
    units: pick([0n, 1n, 1_000_000_000_000n]),
    chargedNanos: pick(numbers),
    lease: pick([null, "lea_1", "x".repeat(64)]),
    keyId: pick([null, "key_1"]),
    requestId: pick(["", "r", "x".repeat(200)]),
    replays: pick([null, { position: 1n, ordinal: 0 }, { position: 2n ** 53n - 1n, ordinal: 7 }]),
    outcome: pick(outcomes),
    unitsBefore: pick([0n, 1n, 1_000_000_000_000n]),
    keptHash: null,
  };
}

function randomRow(chance: Chance): Entry[] {
  return Array.from({ length: chance.below(12) }, () => randomEntry(chance));
}

test("a row by hand is byte for byte what the contract makes of it, and is read back", () => {
  const chance = createChance();

  for (let round = 0; round < 300; round++) {
    const entries = randomRow(chance);
    const bytes = encodeRow(entries);
    const message = fromBinary(JournalRowSchema, bytes);
    const why = `seed ${chance.seed}, round ${round}`;

    expect(Buffer.compare(bytes, toBinary(JournalRowSchema, message)), why).toBe(0);
    expect(message.$unknown, why).toBeUndefined();
    expect(readUsualRow(bytes), why).toEqual(entries);
    expect(readRow(bytes), why).toEqual(entries);
  }
});

test("a damaged row is read by hand as by the contract", () => {
  const chance = createChance();
  let usual = 0;

  for (let round = 0; round < 1_000; round++) {
    const bytes = Buffer.from(encodeRow([...randomRow(chance), randomEntry(chance)]));
    for (let times = 0; times <= chance.below(3); times++) {
      bytes[chance.below(bytes.length)] = chance.below(256);
    }
    const cut = chance.below(4) === 0 ? bytes.subarray(0, chance.below(bytes.length)) : bytes;
    const why = `seed ${chance.seed}, round ${round}: ${cut.toString("base64").slice(0, 4_000)}`;

    usual += readUsualRow(cut) === undefined ? 0 : 1;
    expect(decodeRow({ codec: 1, body: cut }).entries, why).toEqual(readRow(cut));
  }

  expect(usual).toBeGreaterThan(20);
});

test("every number is written as the contract writes it", () => {
  const amounts = Array.from({ length: 53 }, (_, bits) => 2n ** BigInt(bits));

  for (const adjustedNanos of [...amounts, ...amounts.map((one) => one - 1n), 2n ** 63n]) {
    const correctionId = `cor_${"0".repeat(26)}`;
    const identity = { account: `acc_${"0".repeat(26)}`, source: "s", id: "1" };
    const bytes = encodeRow([
      { ...identity, kind: "adjust", correctionId, adjustedNanos, reason: "" },
    ]);

    expect(fromBinary(JournalRowSchema, bytes).entries[0]?.adjustedNanos).toBe(adjustedNanos);
  }
});
