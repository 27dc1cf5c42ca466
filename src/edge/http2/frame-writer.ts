import { flags, frameHeadBytes, frameTypes, payloadBytesMax } from "./codes.ts";
import {
  emptyTable,
  fieldBytesMax,
  type HeaderValue,
  writeFields,
  writeStatus,
} from "./header-encoder.ts";
import { Output } from "./output.ts";

/** The head or the end of a reply. */
export interface Block {
  /** Undefined: these are trailers. */
  readonly status: number | undefined;
  /** Names in lower case and values by turns. */
  readonly fields: readonly HeaderValue[];
  readonly isLast: boolean;
}

/** Writes frames to an output. */
export class FrameWriter {
  readonly output = new Output();
  /** Bytes of a payload that the client takes. */
  payloadMax = payloadBytesMax;
  readonly #onWritten: () => void;
  #isTableAnnounced = false;

  /** `onWritten` is told of each frame. */
  constructor(onWritten: () => void) {
    this.#onWritten = onWritten;
  }

  /** HEADERS, and CONTINUATION where one frame is too small. */
  headers(id: number, { status, fields, isLast }: Block): void {
    const bytesMax = fieldBytesMax(fields);
    const last = isLast ? flags.endStream : 0;
    if (bytesMax <= payloadBytesMax) {
      const { slab, at } = this.output.reserve(frameHeadBytes + bytesMax);
      const from = at + frameHeadBytes;
      const bytes = this.#writeBlock(slab, from, status, fields) - from;
      writeHead(slab, at, { type: frameTypes.headers, bits: flags.endHeaders | last, id, bytes });
      this.output.commit(frameHeadBytes + bytes);
      this.#onWritten();
      return;
    }
    const block = Buffer.allocUnsafe(bytesMax);
    const end = this.#writeBlock(block, 0, status, fields);
    for (let at = 0; at < end; at += this.payloadMax) {
      const part = block.subarray(at, Math.min(at + this.payloadMax, end));
      const type = at === 0 ? frameTypes.headers : frameTypes.continuation;
      const isEnd = at + part.length === end;
      const bits = (at === 0 ? last : 0) | (isEnd ? flags.endHeaders : 0);
      part.copy(this.#frame(type, bits, id, part.length));
    }
  }

  /** DATA. The bytes must not change until they are sent. */
  data(id: number, bytes: Uint8Array, isLast: boolean): void {
    const { slab, at } = this.output.reserve(frameHeadBytes);
    const bits = isLast ? flags.endStream : 0;
    writeHead(slab, at, { type: frameTypes.data, bits, id, bytes: bytes.length });
    this.output.commit(frameHeadBytes);
    this.output.add(bytes);
    this.#onWritten();
  }

  reset(id: number, code: number): void {
    this.#frame(frameTypes.reset, 0, id, 4).writeUInt32BE(code);
  }

  windowUpdate(id: number, bytes: number): void {
    this.#frame(frameTypes.windowUpdate, 0, id, 4).writeUInt32BE(bytes);
  }

  settings(values: readonly (readonly [name: number, value: number])[]): void {
    const payload = this.#frame(frameTypes.settings, 0, 0, 6 * values.length);
    for (const [index, [name, value]] of values.entries()) {
      payload.writeUInt16BE(name, 6 * index);
      payload.writeUInt32BE(value, 6 * index + 2);
    }
  }

  settingsAck(): void {
    this.#frame(frameTypes.settings, flags.ack, 0, 0);
  }

  ping(): void {
    this.#frame(frameTypes.ping, 0, 0, 8).fill(0);
  }

  pingAck(payload: Buffer): void {
    payload.copy(this.#frame(frameTypes.ping, flags.ack, 0, payload.length));
  }

  goaway(lastId: number, code: number, reason = ""): void {
    const payload = this.#frame(frameTypes.goaway, 0, 0, 8 + reason.length);
    payload.writeUInt32BE(lastId, 0);
    payload.writeUInt32BE(code, 4);
    payload.write(reason, 8, "latin1");
  }

  /** Add a frame. Returns its payload, which is to be written at once. */
  #frame(type: number, bits: number, id: number, bytes: number): Buffer {
    const { slab, at } = this.output.reserve(frameHeadBytes + bytes);
    writeHead(slab, at, { type, bits, id, bytes });
    this.output.commit(frameHeadBytes + bytes);
    this.#onWritten();
    return slab.subarray(at + frameHeadBytes, at + frameHeadBytes + bytes);
  }

  #writeBlock(
    to: Buffer,
    start: number,
    status: number | undefined,
    fields: readonly HeaderValue[],
  ): number {
    let at = start;
    if (!this.#isTableAnnounced) {
      this.#isTableAnnounced = true;
      to[at++] = emptyTable;
    }
    if (status !== undefined) {
      at = writeStatus(to, at, status);
    }
    return writeFields(to, at, fields);
  }
}

function writeHead(
  to: Buffer,
  at: number,
  head: { type: number; bits: number; id: number; bytes: number },
): void {
  to.writeUIntBE(head.bytes, at, 3);
  to[at + 3] = head.type;
  to[at + 4] = head.bits;
  to.writeUInt32BE(head.id, at + 5);
}
