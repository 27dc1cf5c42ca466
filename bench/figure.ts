/** A measured value beside that of its peer, both medians of the same run. */
export interface Figure {
  name: string;
  value: number;
  unit: string;
  peer: string;
  peerValue: number;
  /** The median of the ratios of adjacent runs. Without it the ratio of the two medians. */
  ratio?: number;
  /** Without it the figure is only for information. */
  bar?: Bar;
  /** How often each was measured. */
  n: number;
}

/** What a figure should keep to. */
export interface Bar {
  readonly of: "value" | "ratio";
  readonly limit: "at least" | "at most";
  readonly at: number;
}

/** How many times the peer's value ours is. */
export function ratioOf({ value, peerValue, ratio }: Figure): number {
  return round(ratio ?? value / peerValue);
}

/** Whether the figure keeps to its bar. */
export function isMet(figure: Figure): boolean {
  const { bar } = figure;
  if (bar === undefined) {
    return true;
  }
  const measured = bar.of === "value" ? figure.value : ratioOf(figure);
  return bar.limit === "at least" ? measured >= bar.at : measured <= bar.at;
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

/** To two places behind the point. */
export function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** A figure of values and those of the peer that were measured in turns. */
export function compared(
  name: string,
  {
    ours,
    theirs,
    ...rest
  }: Pick<Figure, "unit" | "peer" | "bar"> & { ours: readonly number[]; theirs: readonly number[] },
): Figure {
  return {
    name,
    value: round(median(ours)),
    peerValue: round(median(theirs)),
    ratio: median(ours.map((value, index) => value / (theirs[index] ?? Number.NaN))),
    n: ours.length,
    ...rest,
  };
}
