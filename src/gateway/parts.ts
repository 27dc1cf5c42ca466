/** Bytes that are read of a reply at once. Of one that nobody takes, two parts are in memory. */
export const partBytes = 16 * 1024;

/** Parts that are kept to be used again: what 1,000 replies have on their way in one turn of the loop. */
const freeMax = 1_024;

/**
 * The memory that replies are read into. It is used again once it is sent: left to the collector, several times of what
 * is on its way would lie about between two collections.
 */
export class Parts {
  readonly #free: Buffer[] = [];
  /** How many of them were not needed since trim(). */
  #idle = 0;

  /** How many bytes are kept to be used again. */
  get freeBytes(): number {
    return this.#free.length * partBytes;
  }

  /** A copy of the first `length` bytes, `partBytes` at most. */
  copy(bytes: Buffer, length: number): Buffer {
    const part = length === partBytes ? this.#whole() : Buffer.allocUnsafe(length);
    bytes.copy(part, 0, 0, length);
    return part;
  }

  #whole(): Buffer {
    const part = this.#free.pop() ?? Buffer.allocUnsafeSlow(partBytes);
    this.#idle = Math.min(this.#idle, this.#free.length);
    return part;
  }

  /** Use a part again. Nobody may read it any more, not a piece of it either. What is only a piece of one is left alone. */
  giveBack(part: Buffer): void {
    const isWhole = part.length === partBytes && part.buffer.byteLength === partBytes;
    if (isWhole && this.#free.length < freeMax) {
      this.#free.push(part);
    }
  }

  /** Let go what was not needed since the last time. */
  trim(): void {
    this.#free.splice(0, this.#idle);
    this.#idle = this.#free.length;
  }
}
