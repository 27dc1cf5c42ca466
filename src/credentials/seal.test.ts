import { createDecipheriv, hkdfSync } from "node:crypto";
import { inspect } from "node:util";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  createSealer,
  type SealContext,
  type Sealer,
  TamperedError,
  UnknownKeyError,
} from "./seal.ts";

const keys = [1, 2, 3].map((version) => ({
  version,
  key: Buffer.from(Array.from({ length: 32 }, (_, index) => (index * 7 + version * 31) % 256)),
}));
const [first, second, third] = keys as [Key, Key, Key];
type Key = (typeof keys)[number];

const place: SealContext = {
  accountId: "acc_01j9x0c5m20000000000000001",
  provider: "openai",
  environment: "live",
  id: "crd_01j9x0c5m20000000000000001",
};
const plain = Buffer.from("sk-the-plain-text");

const bytes = fc.uint8Array({ maxLength: 2_000 });
const context = fc.record({
  accountId: fc.string(),
  provider: fc.string(),
  environment: fc.string(),
  id: fc.string(),
});

test("what is sealed opens in its place, whatever it is", () => {
  const sealer = createSealer({ keys });

  fc.assert(
    fc.property(bytes, context, (text, where) => {
      const sealed = sealer.seal(text, where);

      expect(sealer.open(sealed, where)).toEqual(Buffer.from(text));
      // A view into a larger buffer, as the driver of the database makes them.
      const view = Buffer.concat([Buffer.alloc(3), sealed, Buffer.alloc(5)]).subarray(3, -5);
      expect(sealer.open(view, where)).toEqual(Buffer.from(text));
    }),
  );
});

test("a sealed text says its format and key, and is 33 bytes longer than the text", () => {
  const sealed = createSealer({ keys: [third, first] }).seal(plain, place);

  expect(sealed.subarray(0, 5)).toEqual(Buffer.from([1, 0, 0, 0, 3]));
  expect(sealed).toHaveLength(plain.length + 33);
});

test.for(["accountId", "provider", "environment", "id"] as const)(
  "what is sealed does not open under another %s",
  (name) => {
    const sealer = createSealer({ keys });
    const sealed = sealer.seal(plain, place);

    for (const other of ["", `${place[name]}x`, place[name].slice(1), place[name].toUpperCase()]) {
      expect(() => sealer.open(sealed, { ...place, [name]: other })).toThrow(TamperedError);
    }
  },
);

test("no two places are the same, however their parts are cut", () => {
  const sealer = createSealer({ keys });
  const sealed = sealer.seal(plain, { ...place, accountId: "ab", provider: "c" });

  expect(() => sealer.open(sealed, { ...place, accountId: "a", provider: "bc" })).toThrow(
    TamperedError,
  );
  fc.assert(
    fc.property(context, context, (one, other) => {
      fc.pre(!isSame(one, other));
      expect(() => sealer.open(sealer.seal(plain, one), other)).toThrow(TamperedError);
    }),
  );
});

test("a text with any bit flipped does not open", () => {
  const sealer = createSealer({ keys });

  fc.assert(
    fc.property(bytes, fc.nat(), (text, nth) => {
      const sealed = sealer.seal(text, place);
      const bit = nth % (sealed.length * 8);
      const flipped = Buffer.from(sealed);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));

      expect(() => sealer.open(flipped, place)).toThrow(
        expect.toSatisfy((error) => isSealError(error)),
      );
    }),
    { numRuns: 500 },
  );
});

test("a text that was cut or grown does not open", () => {
  const sealer = createSealer({ keys });
  const sealed = sealer.seal(plain, place);

  for (let length = 0; length < sealed.length; length++) {
    expect(() => sealer.open(sealed.subarray(0, length), place), `${length}`).toThrow(
      TamperedError,
    );
  }
  expect(() => sealer.open(Buffer.concat([sealed, Buffer.alloc(1)]), place)).toThrow(TamperedError);
});

test("the first key seals, and all open", () => {
  const before = createSealer({ keys: [first] });
  const during = createSealer({ keys: [second, first] });
  const after = createSealer({ keys: [second] });
  const [old, fresh] = [before.seal(plain, place), during.seal(plain, place)];

  expect(during.primaryVersion).toBe(2);
  expect(during.versions).toEqual([2, 1]);
  expect([during.open(old, place), during.open(fresh, place)]).toEqual([plain, plain]);
  expect(after.open(fresh, place)).toEqual(plain);
  expect(() => after.open(old, place)).toThrow(UnknownKeyError);
  expect(() => before.open(fresh, place)).toThrow("no key of version 2");
});

test("another key of the same version opens nothing", () => {
  const sealed = createSealer({ keys: [first] }).seal(plain, place);
  const other = createSealer({ keys: [{ version: 1, key: second.key }] });

  expect(() => other.open(sealed, place)).toThrow(TamperedError);
});

test("the same text is never sealed to the same bytes", () => {
  const sealer = createSealer({ keys });
  const seals = Array.from({ length: 1_000 }, () => sealer.seal(plain, place).toString("hex"));

  expect(new Set(seals).size).toBe(seals.length);
});

// What is stored outlives the code: whoever changes this reads nothing that was sealed before.
test("the bytes are those of the format, under a key of the record's own", () => {
  const { accountId, provider, environment, id } = place;
  const sealed = createSealer({ keys: [second] }).seal(plain, place);
  const key = Buffer.from(hkdfSync("sha256", second.key, "", `callora record ${id}`, 32));
  const length = (text: string) => Buffer.from([0, 0, 0, text.length]);
  const parts = [accountId, provider, environment, id];

  const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(5, 17));
  decipher.setAAD(
    Buffer.concat([
      Buffer.from([1, 0, 0, 0, 2]),
      ...parts.flatMap((part) => [length(part), Buffer.from(part)]),
    ]),
  );
  decipher.setAuthTag(sealed.subarray(-16));

  const opened = Buffer.concat([decipher.update(sealed.subarray(17, -16)), decipher.final()]);
  expect(opened).toEqual(plain);
});

test("a check value is the key's and the version's own, and tells nothing of the key", () => {
  const [one, other] = [createSealer({ keys }), createSealer({ keys: [second, first] })];

  expect(one.checkValue(1)).toEqual(other.checkValue(1));
  expect(one.checkValue(1)).toHaveLength(32);
  const sameKey = createSealer({ keys: [{ version: 9, key: first.key }] });
  const values = [one.checkValue(1), one.checkValue(2), sameKey.checkValue(9), first.key];
  expect(new Set(values.map((value) => value.toString("hex"))).size).toBe(values.length);
  expect(() => other.checkValue(3)).toThrow(UnknownKeyError);
});

test("neither an error nor a printed sealer holds the key or the text", () => {
  const sealer = createSealer({ keys: [first] });
  const sealed = createSealer({ keys: [second] }).seal(plain, place);
  const errors = [
    errorOf(() => sealer.open(sealed, place)),
    errorOf(() => sealer.open(sealer.seal(plain, place), { ...place, id: "crd_2" })),
    errorOf(() => sealer.open(plain, place)),
  ];

  const printed = [...errors, sealer].map((it) => inspect(it, { depth: 9, showHidden: true }));
  printed.push(JSON.stringify(sealer));
  for (const secret of [plain, first.key]) {
    for (const form of ["utf8", "hex", "base64"] as const) {
      expect(printed.filter((text) => text.includes(secret.toString(form)))).toEqual([]);
    }
  }
  expect(errors.every(({ cause }) => cause === undefined)).toBe(true);
});

test.for([
  { name: "no key", wrong: [] },
  { name: "a short key", wrong: [{ version: 1, key: Buffer.alloc(31) }] },
  { name: "version 0", wrong: [{ version: 0, key: first.key }] },
  { name: "two keys of one version", wrong: [first, { version: 1, key: second.key }] },
])("a sealer is not made of $name", ({ wrong }) => {
  expect((): Sealer => createSealer({ keys: wrong })).toThrow();
});

function isSame(one: SealContext, other: SealContext): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function isSealError(error: unknown): boolean {
  return error instanceof TamperedError || error instanceof UnknownKeyError;
}

function errorOf(work: () => unknown): Error {
  try {
    work();
  } catch (error) {
    if (error instanceof Error) {
      return error;
    }
  }
  throw new Error("expected an error");
}
