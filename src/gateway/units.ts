import type { UnitSource } from "../catalog/price-rule.ts";
import { notBuilt } from "../rpc/errors.ts";

/** Reads the number of units out of an upstream's reply. */
export interface UnitReader {
  /** A part of the reply's body, in its order. */
  data(chunk: Buffer): void;
  /** Null: the reply said nothing. Known once the whole body was read. */
  readonly units: bigint | null;
}

/** Make the reader for a reply whose headers are there. */
export function createUnitReader(
  _source: UnitSource,
  _reply: { header(name: string): string | undefined },
): UnitReader {
  throw notBuilt("prices by units");
}
