import { shareFloor } from "../../lib/money.ts";

/** What one run of the demo moved, in nano-USDC, each sum from an answer of its own. */
export interface DemoSums {
  /** Calls that were answered and cost something, times the price. */
  pricedNanos: bigint;
  /** What the consumers' balances say was charged. */
  debitsNanos: bigint;
  /** The platform's share, in hundredths of a percent. */
  feeBasisPoints: number;
  /** What the developer's earnings say was credited. */
  creditsNanos: bigint;
  /** What the developer's earnings say was paid. */
  paidNanos: bigint;
  /** What the chain says that the treasury paid to the developer's address. */
  chainNanos: bigint;
  inFlightNanos: bigint;
  payableNanos: bigint;
}

/** Two sums that must be the same, to the last unit. */
export interface Equation {
  name: string;
  leftNanos: bigint;
  rightNanos: bigint;
  ok: boolean;
}

/** Compare the sums. The platform rounds its share down, on the total of the developer's calls. */
export function compareSums(sums: DemoSums): Equation[] {
  const { pricedNanos, debitsNanos, creditsNanos, chainNanos, inFlightNanos, payableNanos } = sums;
  return [
    equation("charged calls × price = consumer debits", pricedNanos, debitsNanos),
    equation(
      "consumer debits = developer credits + platform fee",
      debitsNanos,
      creditsNanos + feeOf(sums),
    ),
    equation(
      "developer credits = paid on the chain + in flight + payable",
      creditsNanos,
      chainNanos + inFlightNanos + payableNanos,
    ),
    equation("paid by the earnings = paid on the chain", sums.paidNanos, chainNanos),
  ];
}

/** The platform's share, reckoned from the calls and not from what the server says. */
export function feeOf({ pricedNanos, feeBasisPoints }: DemoSums): bigint {
  return shareFloor(pricedNanos, feeBasisPoints);
}

/** The sums as rows of a table. */
export function sumLines(sums: DemoSums): string[] {
  const fee = `platform fee (${sums.feeBasisPoints / 100} %, rounded down)`;
  const rows: [string, bigint][] = [
    ["consumer debits", sums.debitsNanos],
    ["developer credits", sums.creditsNanos],
    [fee, feeOf(sums)],
    ["paid on the chain", sums.chainNanos],
    ["in flight", sums.inFlightNanos],
    ["payable", sums.payableNanos],
  ];
  const nameWidth = Math.max(...rows.map(([name]) => name.length));
  const sumWidth = Math.max(...rows.map(([, nanos]) => String(nanos).length));
  return rows.map(
    ([name, nanos]) => `${name.padEnd(nameWidth)}  ${String(nanos).padStart(sumWidth)}`,
  );
}

function equation(name: string, leftNanos: bigint, rightNanos: bigint): Equation {
  return { name, leftNanos, rightNanos, ok: leftNanos === rightNanos };
}
