const capacityMin = 1_024;

/**
 * Bytes that come in parts. They lie in one piece of memory: parts of a byte each would take a hundred times as much,
 * and the other side decides how it sends.
 */
export class Bytes {
  length = 0;
  /** Longer than what is in it; the only part so far is kept as it came. */
  #held: Buffer = nothing;

  add(part: Buffer): void {
    const length = this.length + part.length;
    if (this.length === 0) {
      this.#held = part;
    } else {
      if (this.#held.length < length) {
        const larger = Buffer.allocUnsafeSlow(Math.max(2 * length, capacityMin));
        this.#held.copy(larger, 0, 0, this.length);
        this.#held = larger;
      }
      part.copy(this.#held, this.length);
    }
    this.length = length;
  }

  /** All of them. Good until more are added. */
  get all(): Buffer {
    return this.#held.subarray(0, this.length);
  }

  clear(): void {
    this.#held = nothing;
    this.length = 0;
  }
}

const nothing = Buffer.alloc(0);
