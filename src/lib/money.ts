/** Nano-USDC in one stroop, the smallest unit on the chain. */
export const nanosPerStroop = 100n;

/** `amount × basisPoints / 10,000`, rounded down. */
export function shareFloor(amountNanos: bigint, basisPoints: number): bigint {
  return (amountNanos * BigInt(basisPoints)) / 10_000n;
}

/** The largest whole number of stroops in an amount. */
export function stroopsFloor(amountNanos: bigint): bigint {
  return amountNanos / nanosPerStroop;
}

/** An amount of stroops as the chain writes it: seven decimals. */
export function stroopsText(stroops: bigint): string {
  const digits = stroops.toString().padStart(8, "0");
  return `${digits.slice(0, -7)}.${digits.slice(-7)}`;
}

/** Stroops from what the chain writes. Throws when the text is not such an amount. */
export function parseStroops(text: string): bigint {
  const match = /^(\d{1,12})(?:\.(\d{1,7}))?$/.exec(text);
  if (match === null) {
    throw new Error(`Cannot read amount "${text}": expected up to 12 digits and 7 decimals`);
  }
  return BigInt(`${match[1]}${(match[2] ?? "").padEnd(7, "0")}`);
}

/** Nanos as USDC for people: `1.25`. */
export function usdcText(nanos: bigint): string {
  const sign = nanos < 0n ? "-" : "";
  const digits = (nanos < 0n ? -nanos : nanos).toString().padStart(10, "0");
  const fraction = digits.slice(-9).replace(/0+$/, "");
  return `${sign}${digits.slice(0, -9)}${fraction === "" ? "" : `.${fraction}`}`;
}
