/** A measured value beside that of its peer, both medians of the same run. */
export interface Figure {
  name: string;
  value: number;
  unit: string;
  peer: string;
  peerValue: number;
  /** The most that the value may be. */
  bar: number;
  /** How often each was measured. */
  n: number;
}

/** How many times the peer's value ours is. */
export function ratioOf({ value, peerValue }: Figure): number {
  return Math.round((value / peerValue) * 100) / 100;
}

/** Whether the value keeps to its bar. */
export function isMet({ value, bar }: Figure): boolean {
  return value <= bar;
}

/** The middle value. Throws when there is none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) {
    throw new Error("Cannot take the median of nothing");
  }
  return middle;
}
