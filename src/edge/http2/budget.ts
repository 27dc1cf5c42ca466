/** How often something may happen: so many times in a row, of which some are regained each second. */
export class Budget {
  readonly #max: number;
  readonly #perSecond: number;
  #left: number;
  #lastMs = 0;

  constructor({ max, perSecond }: { max: number; perSecond: number }) {
    this.#max = max;
    this.#perSecond = perSecond;
    this.#left = max;
  }

  /** Whether it may happen once more. */
  take(nowMs: number): boolean {
    const regained = ((nowMs - this.#lastMs) * this.#perSecond) / 1000;
    this.#left = Math.min(this.#max, this.#left + regained) - 1;
    this.#lastMs = nowMs;
    return this.#left >= 0;
  }

  /** Begin anew. */
  refill(): void {
    this.#left = this.#max;
  }
}
