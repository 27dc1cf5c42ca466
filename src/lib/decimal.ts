/** Places after the point that a decimal has. */
const placesMax = 18;

/** Digits of a decimal, before and after the point together. */
const digitsMaxDefault = 38;

/** More digits of an exponent are refused: no value that fits has them. */
const exponentDigitsMax = 9;

/** A number as JSON and PostgreSQL write it. */
const numberPattern = /^(-?)(0|[1-9]\d*)(?:\.(\d+))?(?:[eE]([+-]?)0*(\d+))?$/;

/**
 * The exact value of a number as JSON writes it, times 10^18.
 *
 * Null when it is no number, or does not fit into 18 places after the point and 38 digits in all. Zeros that change
 * nothing do not count, whichever way the number is written.
 */
export function parseDecimal(text: string, digitsMax = digitsMaxDefault): bigint | null {
  const number = readNumber(text);
  return number === null ? null : scaled(number, digitsMax);
}

/** The decimal of a value that is scaled by 10^18: no exponent, no zeros that change nothing. */
export function formatDecimal(value: bigint): string {
  const sign = value < 0n ? "-" : "";
  const digits = (value < 0n ? -value : value).toString().padStart(placesMax + 1, "0");
  const fraction = digits.slice(-placesMax).replace(/0+$/, "");
  return `${sign}${digits.slice(0, -placesMax)}${fraction === "" ? "" : `.${fraction}`}`;
}

/**
 * One text for all ways to write the same number, whatever its size: `1`, `1.0` and `10e-1` are `1`.
 *
 * Null when the text is no number, or its exponent has more than nine digits.
 */
export function canonicalNumber(text: string): string | null {
  const number = readNumber(text);
  if (number === null) {
    return null;
  }
  const value = scaled(number, digitsMaxDefault);
  const { sign, digits, exponent } = number;
  return value === null ? `${sign}${digits}e${exponent}` : formatDecimal(value);
}

/** `a / b`, rounded half to even. Throws RangeError when b is zero. */
export function divHalfEven(a: bigint, b: bigint): bigint {
  const [dividend, divisor] = b < 0n ? [-a, -b] : [a, b];
  const quotient = dividend / divisor;
  const rest = dividend % divisor;
  const twice = (rest < 0n ? -rest : rest) * 2n;
  const roundsAway = twice > divisor || (twice === divisor && quotient % 2n !== 0n);
  if (!roundsAway) {
    return quotient;
  }
  return dividend < 0n ? quotient - 1n : quotient + 1n;
}

/** `digits × 10^exponent`; the digits begin and end with none that is zero, and are empty for zero. */
interface PlainNumber {
  sign: string;
  digits: string;
  exponent: number;
}

function readNumber(text: string): PlainNumber | null {
  const match = numberPattern.exec(text);
  if (match === null) {
    return null;
  }
  const [, sign = "", whole = "", fraction = "", exponentSign = "", exponentText = "0"] = match;
  const all = trimZeros(whole + fraction);
  if (all.digits === "") {
    return { sign: "", digits: "", exponent: 0 };
  }
  if (exponentText.length > exponentDigitsMax) {
    return null;
  }
  const power = Number(exponentText) * (exponentSign === "-" ? -1 : 1);
  return { sign, digits: all.digits, exponent: power - fraction.length + all.trailing };
}

/** By index: a pattern for the zeros at the end takes time by the square of a text of zeros. */
function trimZeros(text: string): { digits: string; trailing: number } {
  let start = 0;
  while (text[start] === "0") {
    start += 1;
  }
  let end = text.length;
  while (end > start && text[end - 1] === "0") {
    end -= 1;
  }
  return { digits: text.slice(start, end), trailing: text.length - end };
}

function scaled({ sign, digits, exponent }: PlainNumber, digitsMax: number): bigint | null {
  if (digits === "") {
    return 0n;
  }
  const places = Math.max(0, -exponent);
  const wholeDigits = Math.max(0, digits.length + exponent);
  if (places > placesMax || wholeDigits + places > digitsMax) {
    return null;
  }
  return BigInt(`${sign}${digits}`) * 10n ** BigInt(placesMax + exponent);
}
