import fc from "fast-check";
import { expect, test } from "vitest";
import { cpuMsOf } from "../../test/support/cpu.ts";
import { canonicalNumber, divHalfEven, formatDecimal, parseDecimal } from "./decimal.ts";

test.for([
  ["0", "0"],
  ["-0", "0"],
  ["0.1", "0.1"],
  ["-12.50", "-12.5"],
  ["1e2", "100"],
  ["1E+2", "100"],
  ["100e-2", "1"],
  ["0e999999999999", "0"],
  ["1e-18", "0.000000000000000001"],
  ["10e-19", "0.000000000000000001"],
  ["9007199254740993", "9007199254740993"],
  ["12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"],
  ["1e37", "10000000000000000000000000000000000000"],
  [`1.${"0".repeat(500)}`, "1"],
  ["1e0000000000000000002", "100"],
] as const)("%s is read exactly, as %s", ([text, shown]) => {
  const value = parseDecimal(text);

  expect(value === null ? null : formatDecimal(value)).toBe(shown);
});

test.for([
  "",
  " 1",
  "1 ",
  "+1",
  "01",
  ".5",
  "1.",
  "1e",
  "0x1",
  "NaN",
  "Infinity",
  "1_000",
  "١",
  "1e-19",
  "1.0000000000000000001",
  "1e38",
  "123456789012345678901.123456789012345678",
  "1e999999999",
  "1e9999999999999999999",
  "-1e-999999999",
])('"%s" is no decimal', (text) => {
  expect(parseDecimal(text)).toBeNull();
});

test("0.1 and 0.2 are 0.3", () => {
  const sum = (parseDecimal("0.1") ?? 0n) + (parseDecimal("0.2") ?? 0n);

  expect(formatDecimal(sum)).toBe("0.3");
});

const limit = 10n ** 37n;

test("a decimal survives being written and read", () => {
  fc.assert(
    fc.property(fc.bigInt({ min: -limit, max: limit }), (value) => {
      expect(parseDecimal(formatDecimal(value))).toBe(value);
    }),
  );
});

test("all ways to write a number have one canonical text, and no two numbers share it", () => {
  const number = fc.record({
    mantissa: fc.bigInt({ min: -(10n ** 45n), max: 10n ** 45n }),
    exponent: fc.integer({ min: -60, max: 60 }),
    zeros: fc.nat(5),
  });
  const write = ({
    mantissa,
    exponent,
    zeros,
  }: { [K in "exponent" | "zeros"]: number } & { mantissa: bigint }) =>
    `${mantissa}${mantissa === 0n ? "" : "0".repeat(zeros)}e${exponent - (mantissa === 0n ? 0 : zeros)}`;
  fc.assert(
    fc.property(number, number, fc.nat(5), (a, b, zeros) => {
      expect(canonicalNumber(write(a))).toBe(canonicalNumber(write({ ...a, zeros })));
      const power = (of: number) => 10n ** BigInt(of + 60);
      const same = a.mantissa * power(a.exponent) === b.mantissa * power(b.exponent);
      expect(canonicalNumber(write(a)) === canonicalNumber(write(b))).toBe(same);
    }),
  );
});

test.for([
  [5n, 2n, 2n],
  [7n, 2n, 4n],
  [-5n, 2n, -2n],
  [-7n, 2n, -4n],
  [5n, -2n, -2n],
  [1n, 3n, 0n],
  [2n, 3n, 1n],
  [-2n, 3n, -1n],
  [-1n, 2n, 0n],
  [-3n, 2n, -2n],
  [0n, 7n, 0n],
] as const)("%s / %s is %s, half to even", ([a, b, quotient]) => {
  expect(divHalfEven(a, b)).toBe(quotient);
});

test("a quotient is never more than half away, and even when it is half away", () => {
  fc.assert(
    fc.property(
      fc.bigInt(),
      fc.bigInt().filter((b) => b !== 0n),
      (a, b) => {
        const quotient = divHalfEven(a, b);
        const away = abs(a - quotient * b) * 2n;
        expect(away <= abs(b)).toBe(true);
        expect(away < abs(b) || quotient % 2n === 0n).toBe(true);
      },
    ),
  );
});

test("a long text takes no long time", () => {
  const tookMs = cpuMsOf(() => {
    expect(parseDecimal(`${"1".repeat(100_000)}e1`)).toBeNull();
    expect(parseDecimal(`1.${"01".repeat(50_000)}`)).toBeNull();
    expect(canonicalNumber(`0.${"0".repeat(100_000)}`)).toBe("0");
  });

  expect(tookMs).toBeLessThan(1_000);
});

function abs(value: bigint): bigint {
  return value < 0n ? -value : value;
}
