import {
  errorCodes,
  flags,
  frameHeadBytes,
  frameTypes,
  Http2Error,
  payloadBytesMax,
  windowBytesMax,
} from "./codes.ts";

/** A frame that has arrived. */
export interface Frame {
  readonly type: number;
  readonly bits: number;
  /** Of the stream. Zero: of the connection. */
  readonly id: number;
  /** Without padding and priority. Of HEADERS the whole block, whichever frames it came in. */
  readonly payload: Buffer;
  /** Bytes of the payload as it was sent, which count for the windows. */
  readonly size: number;
}

/** A header block that is continued in the next frame. */
interface Continued {
  readonly id: number;
  readonly bits: number;
  readonly parts: Buffer[];
  bytes: number;
}

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

const headerBlockBytesMax = 64 * 1024;
const continuationsMax = 16;
const priorityBytes = 5;

/** Finds the frames in what a client sends, from the preface on (RFC 9113, sections 3.4, 4 and 6.10). */
export class FrameReader {
  readonly #onFrame: (frame: Frame) => void;
  #rest: Buffer = nothing;
  #hasPreface = false;
  #hasSettings = false;
  #isStopped = false;
  #continued: Continued | undefined;

  constructor(onFrame: (frame: Frame) => void) {
    this.#onFrame = onFrame;
  }

  /** Read what came. Throws Http2Error if it is not HTTP/2. */
  read(chunk: Buffer): void {
    const data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const at = this.#readFrames(data, this.#hasPreface ? 0 : this.#readPreface(data));
    this.#rest = at === data.length ? nothing : data.subarray(at);
  }

  /** Have no more frames read, not even those that are there. */
  stop(): void {
    this.#isStopped = true;
  }

  #readPreface(data: Buffer): number {
    if (data.length < preface.length) {
      return 0;
    }
    if (data.compare(preface, 0, preface.length, 0, preface.length) !== 0) {
      throw new Http2Error(errorCodes.protocolError, "The connection preface is malformed");
    }
    this.#hasPreface = true;
    return preface.length;
  }

  /** Read what frames there are as a whole. Returns where the rest begins. */
  #readFrames(data: Buffer, start: number): number {
    let at = start;
    while (this.#hasPreface && data.length - at >= frameHeadBytes && !this.#isStopped) {
      const size = data.readUIntBE(at, 3);
      if (size > payloadBytesMax) {
        throw new Http2Error(errorCodes.frameSizeError, "A frame is too large");
      }
      const from = at + frameHeadBytes;
      if (data.length - from < size) {
        break;
      }
      const id = data.readUInt32BE(at + 5) & windowBytesMax;
      const type = data[at + 3] as number;
      const bits = data[at + 4] as number;
      at = from + size;
      this.#readFrame({ type, bits, id, payload: data.subarray(from, at), size });
    }
    return at;
  }

  #readFrame(frame: Frame): void {
    const { type, bits, id, payload, size } = frame;
    if ((this.#continued !== undefined) !== (type === frameTypes.continuation)) {
      throw new Http2Error(errorCodes.protocolError, "A header block is cut off");
    }
    if (!this.#hasSettings) {
      if (type !== frameTypes.settings || (bits & flags.ack) !== 0) {
        throw new Http2Error(errorCodes.protocolError, "The first frame is not SETTINGS");
      }
      this.#hasSettings = true;
    }
    switch (type) {
      case frameTypes.data:
        this.#onFrame({ type, bits, id, payload: unpad(payload, bits, 0), size });
        break;
      case frameTypes.headers:
        this.#readHeaders(frame);
        break;
      case frameTypes.continuation:
        this.#readContinuation(frame);
        break;
      default:
        this.#onFrame(frame);
    }
  }

  #readHeaders({ type, bits, id, payload, size }: Frame): void {
    const skipped = (bits & flags.priority) === 0 ? 0 : priorityBytes;
    const block = unpad(payload, bits, skipped);
    if ((bits & flags.endHeaders) === 0) {
      this.#continued = { id, bits, parts: [block], bytes: block.length };
    } else {
      this.#onFrame({ type, bits, id, payload: block, size });
    }
  }

  #readContinuation({ bits, id, payload }: Frame): void {
    const continued = this.#continued as Continued;
    if (continued.id !== id) {
      throw new Http2Error(errorCodes.protocolError, "A header block is cut off");
    }
    continued.parts.push(payload);
    continued.bytes += payload.length;
    if (continued.bytes > headerBlockBytesMax || continued.parts.length > continuationsMax) {
      throw new Http2Error(errorCodes.enhanceYourCalm, "A header block is too large");
    }
    if ((bits & flags.endHeaders) !== 0) {
      this.#continued = undefined;
      const block = Buffer.concat(continued.parts, continued.bytes);
      const { headers: type } = frameTypes;
      this.#onFrame({ type, bits: continued.bits, id, payload: block, size: block.length });
    }
  }
}

const nothing = Buffer.alloc(0);

/** What is left of a payload without its padding, and without so many bytes before it. */
function unpad(payload: Buffer, bits: number, skipped: number): Buffer {
  const isPadded = (bits & flags.padded) !== 0;
  const from = (isPadded ? 1 : 0) + skipped;
  const end = payload.length - (isPadded ? (payload[0] ?? 0) : 0);
  if (payload.length < from) {
    throw new Http2Error(errorCodes.frameSizeError, "A frame is too short");
  }
  if (end < from) {
    throw new Http2Error(errorCodes.protocolError, "A frame has more padding than content");
  }
  return payload.subarray(from, end);
}
