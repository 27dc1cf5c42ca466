const slabBytes = 8 * 1024;

/** Payloads up to this are copied beside the frames around them; larger ones are handed on as they are. */
const copiedBytesMax = 4_096;

/** Frames that wait to be written together. */
export class Output {
  #slab: Buffer = Buffer.alloc(0);
  /** What of the slab was not taken yet begins here, and ends at `#at`. */
  #from = 0;
  #at = 0;
  #parts: Uint8Array[] = [];
  /** Bytes that wait. */
  size = 0;

  /** Where the next so many bytes are to be written: `at` in `slab`. */
  reserve(bytes: number): { readonly slab: Buffer; readonly at: number } {
    if (this.#slab.length - this.#at < bytes) {
      this.#cut();
      this.#slab = Buffer.allocUnsafeSlow(Math.max(slabBytes, bytes));
      this.#from = 0;
      this.#at = 0;
    }
    return { slab: this.#slab, at: this.#at };
  }

  /** So many bytes of those that were reserved are written. */
  commit(bytes: number): void {
    this.#at += bytes;
    this.size += bytes;
  }

  /** Add what is not written to again. */
  add(bytes: Uint8Array): void {
    if (bytes.length <= copiedBytesMax) {
      const { slab, at } = this.reserve(bytes.length);
      slab.set(bytes, at);
      this.commit(bytes.length);
      return;
    }
    this.#cut();
    this.#parts.push(bytes);
    this.size += bytes.length;
  }

  /** All that waits, in order. */
  take(): Uint8Array[] {
    this.#cut();
    const parts = this.#parts;
    this.#parts = [];
    this.size = 0;
    return parts;
  }

  #cut(): void {
    if (this.#at > this.#from) {
      this.#parts.push(this.#slab.subarray(this.#from, this.#at));
      this.#from = this.#at;
    }
  }
}
