import type { Socket } from "node:net";
import { Budget } from "./budget.ts";
import {
  defaultWindowBytes,
  errorCodes,
  flags,
  frameHeadBytes,
  frameTypes,
  Http2Error,
  payloadBytesMax,
  settings,
  windowBytesMax,
} from "./codes.ts";
import { HeaderDecoder } from "./header-decoder.ts";
import {
  emptyTable,
  fieldBytesMax,
  type HeaderValue,
  writeFields,
  writeStatus,
} from "./header-encoder.ts";
import { Output } from "./output.ts";
import { areTrailers, readRequestHead } from "./request-head.ts";
import { Http2Stream, type OnWritten, streamWindowBytes } from "./stream.ts";
import { StreamTable } from "./stream-table.ts";

/** Whom a connection tells. */
export interface Http2Listeners {
  /** The head of a request has arrived. Its body may follow. */
  onStream(stream: Http2Stream): void;
  /** The connection is gone. */
  onClose(): void;
}

/** The head or the end of a reply. */
interface Block {
  /** Undefined: these are trailers. */
  readonly status: number | undefined;
  readonly fields: readonly HeaderValue[];
  readonly isLast: boolean;
}

/** A header block that is continued in the next frame. */
interface Continued {
  readonly id: number;
  readonly isLast: boolean;
  readonly parts: Buffer[];
  bytes: number;
}

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

const streamsMax = 100;
const windowBytes = 1024 * 1024;
/** Of names and values with their overhead. What is told of a target that is too long must come before. */
const headerListBytesMax = 32 * 1024;
const headerBlockBytesMax = 64 * 1024;
const continuationsMax = 16;
/** Streams in a row that were refused because there were too many. */
const refusalsMax = 100;
/** Bytes that may wait to be written before replies have to. */
const outputBytesMax = 256 * 1024;
/** Bytes that the socket may hold before nothing more is read. */
const backlogBytesMax = 1024 * 1024;

/** Streams that were reset, and faults: a client that opens and resets streams without end costs more than it pays. */
const resets = { max: 200, perSecond: 20 };
/** Frames that only cost: PING, SETTINGS, and those without content. Replies between them make them free. */
const idleFrames = { max: 100, perSecond: 10 };

/**
 * The server's side of an HTTP/2 connection (RFC 9113). What is to be sent is gathered, and written once all that has
 * arrived has been looked at: replies to requests that came together go together.
 */
export class Http2Connection {
  readonly socket: Socket;
  readonly streams = new StreamTable();
  readonly #listeners: Http2Listeners;
  readonly #decoder = new HeaderDecoder(headerListBytesMax);
  readonly #output = new Output();
  readonly #resets = new Budget(resets);
  readonly #idleFrames = new Budget(idleFrames);

  #rest: Buffer = nothing;
  #hasPreface = false;
  #hasSettings = false;
  #continued: Continued | undefined;
  #lastId = 0;
  #refusals = 0;

  #sendWindow = defaultWindowBytes;
  #streamSendWindow = defaultWindowBytes;
  #payloadMax = payloadBytesMax;
  #receiveWindow = windowBytes;
  #unannounced = 0;
  #isTableAnnounced = false;

  /** Streams that have more to send. */
  #waiting: Http2Stream[] = [];
  /** Streams that were closed, whose listeners are to be told. */
  #closed: Http2Stream[] = [];
  #onceWritten: OnWritten[] = [];
  #isScheduled = false;
  #isSocketFull = false;
  #isLeaving = false;
  #isClosing = false;
  #isOver = false;

  constructor(
    socket: Socket,
    { idleTimeoutMs, ...listeners }: Http2Listeners & { idleTimeoutMs: number },
  ) {
    this.socket = socket;
    this.#listeners = listeners;
    socket.on("error", ignore);
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    socket.on("drain", () => this.#onDrain());
    // A client that ends its side reads no replies: half of a connection is no use in HTTP/2.
    socket.on("end", () => socket.destroy());
    socket.on("close", () => this.#onGone());
    socket.setTimeout(idleTimeoutMs, () => this.#onIdle());
    this.#writeSettings();
    socket.resume();
  }

  /** Bytes that the next frame of a reply's body may have now. */
  get room(): number {
    const isFull = this.#isSocketFull || this.#output.size >= outputBytesMax;
    return isFull ? 0 : Math.min(this.#sendWindow, this.#payloadMax);
  }

  /**
   * Say that the connection ends, and a round trip later which streams still count: a request that the client sends
   * meanwhile is served, not lost.
   */
  leave(): void {
    if (!this.#isLeaving && !this.#isClosing) {
      this.#isLeaving = true;
      this.#writeGoaway(windowBytesMax, errorCodes.noError);
      this.#frame(frameTypes.ping, 0, 0, 8).fill(0);
    }
  }

  /** Take no more streams, and end when there are none. */
  close(): void {
    if (!this.#isClosing && !this.#isOver) {
      this.#isClosing = true;
      this.#writeGoaway(this.#lastId, errorCodes.noError);
    }
    this.#schedule();
  }

  // What streams ask of their connection.

  /** So many bytes were read: the client may send as many more. */
  credit(bytes: number): void {
    this.#unannounced += bytes;
    if (this.#unannounced >= windowBytes / 2 && !this.#isOver) {
      this.writeWindowUpdate(0, this.#unannounced);
      this.#receiveWindow += this.#unannounced;
      this.#unannounced = 0;
    }
  }

  /** A stream has more to send than there is room for. */
  wait(stream: Http2Stream): void {
    if (!stream.isWaiting) {
      stream.isWaiting = true;
      this.#waiting.push(stream);
      // Else the client makes room, or the socket.
      if (this.room > 0 && stream.sendWindow > 0) {
        this.#schedule();
      }
    }
  }

  /** Tell of it when all that was added so far is written. */
  onceWritten(listener: OnWritten): void {
    this.#onceWritten.push(listener);
  }

  /** A stream is closed. */
  remove(stream: Http2Stream): void {
    this.streams.delete(stream);
    this.#closed.push(stream);
    this.#schedule();
  }

  /** The client broke a rule, or a stream off. Too often, and the connection ends. */
  countFault(): void {
    if (!this.#resets.take(performance.now())) {
      this.#fail(errorCodes.enhanceYourCalm, "too_many_resets");
    }
  }

  writeReply(id: number, block: Block): void {
    const hasDate = block.fields.some((text, at) => at % 2 === 0 && text === "date");
    this.writeHeaders(
      id,
      hasDate ? block : { ...block, fields: [...block.fields, "date", dateNow()] },
    );
  }

  writeHeaders(id: number, { status, fields, isLast }: Block): void {
    this.#idleFrames.refill();
    const bytesMax = fieldBytesMax(fields);
    const last = isLast ? flags.endStream : 0;
    if (bytesMax <= payloadBytesMax) {
      const { slab, at } = this.#output.reserve(frameHeadBytes + bytesMax);
      const from = at + frameHeadBytes;
      const bytes = this.#writeBlock(slab, from, status, fields) - from;
      writeFrameHead(slab, at, {
        type: frameTypes.headers,
        flags: flags.endHeaders | last,
        id,
        bytes,
      });
      this.#output.commit(frameHeadBytes + bytes);
      this.#schedule();
      return;
    }
    const block = Buffer.allocUnsafe(bytesMax);
    const end = this.#writeBlock(block, 0, status, fields);
    for (let at = 0; at < end; at += this.#payloadMax) {
      const part = block.subarray(at, Math.min(at + this.#payloadMax, end));
      const type = at === 0 ? frameTypes.headers : frameTypes.continuation;
      const isEnd = at + part.length === end;
      const bits = (at === 0 ? last : 0) | (isEnd ? flags.endHeaders : 0);
      part.copy(this.#frame(type, bits, id, part.length));
    }
  }

  writeData(id: number, data: Uint8Array, isLast: boolean): void {
    this.#idleFrames.refill();
    this.#sendWindow -= data.length;
    const { slab, at } = this.#output.reserve(frameHeadBytes);
    const head = {
      type: frameTypes.data,
      flags: isLast ? flags.endStream : 0,
      id,
      bytes: data.length,
    };
    writeFrameHead(slab, at, head);
    this.#output.commit(frameHeadBytes);
    this.#output.add(data);
    this.#schedule();
  }

  writeReset(id: number, code: number): void {
    this.#frame(frameTypes.reset, 0, id, 4).writeUInt32BE(code);
  }

  writeWindowUpdate(id: number, bytes: number): void {
    this.#frame(frameTypes.windowUpdate, 0, id, 4).writeUInt32BE(bytes);
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

  #writeSettings(): void {
    const values = [
      [settings.enablePush, 0],
      [settings.maxConcurrentStreams, streamsMax],
      [settings.initialWindowSize, streamWindowBytes],
      [settings.maxHeaderListSize, headerListBytesMax],
    ] as const;
    const payload = this.#frame(frameTypes.settings, 0, 0, 6 * values.length);
    for (const [index, [name, value]] of values.entries()) {
      payload.writeUInt16BE(name, 6 * index);
      payload.writeUInt32BE(value, 6 * index + 2);
    }
    this.writeWindowUpdate(0, windowBytes - defaultWindowBytes);
  }

  #writeGoaway(lastId: number, code: number, reason = ""): void {
    const payload = this.#frame(frameTypes.goaway, 0, 0, 8 + reason.length);
    payload.writeUInt32BE(lastId, 0);
    payload.writeUInt32BE(code, 4);
    payload.write(reason, 8, "latin1");
  }

  /** Add a frame, whose payload is to be written at once. */
  #frame(type: number, bits: number, id: number, bytes: number): Buffer {
    const { slab, at } = this.#output.reserve(frameHeadBytes + bytes);
    writeFrameHead(slab, at, { type, flags: bits, id, bytes });
    this.#output.commit(frameHeadBytes + bytes);
    this.#schedule();
    return slab.subarray(at + frameHeadBytes, at + frameHeadBytes + bytes);
  }

  #schedule(): void {
    if (!this.#isScheduled) {
      this.#isScheduled = true;
      setImmediate(flush, this);
    }
  }

  /** Write what has gathered, and tell of the streams that it ended. */
  flush(): void {
    this.#isScheduled = false;
    this.#write();
    const closed = this.#closed;
    if (closed.length > 0) {
      this.#closed = [];
      for (const stream of closed) {
        stream.tellClosed();
      }
    }
    if (!this.#isSocketFull && this.#waiting.length > 0) {
      this.#sendWaiting();
    }
    if (this.#isLeaving && this.streams.size === 0) {
      this.close();
    }
    if (this.#isClosing && this.streams.size === 0 && !this.#isOver) {
      this.#isOver = true;
      this.#write();
      this.socket.end();
    }
  }

  #write(): void {
    const parts = this.#output.take();
    const { socket } = this;
    if (parts.length === 0 || socket.destroyed || !socket.writable) {
      return;
    }
    const last = parts.pop() as Uint8Array;
    if (parts.length > 0) {
      socket.cork();
      for (const part of parts) {
        socket.write(part);
      }
    }
    this.#isSocketFull = !socket.write(last, this.#takeListeners());
    if (parts.length > 0) {
      socket.uncork();
    }
    if (socket.writableLength > backlogBytesMax) {
      socket.pause();
    }
  }

  #takeListeners(): OnWritten | undefined {
    const listeners = this.#onceWritten;
    if (listeners.length === 0) {
      return undefined;
    }
    this.#onceWritten = [];
    return (error) => {
      for (const listener of listeners) {
        listener(error);
      }
    };
  }

  #onDrain(): void {
    this.#isSocketFull = false;
    if (this.socket.isPaused()) {
      this.socket.resume();
    }
    this.#sendWaiting();
  }

  /** Give each stream that waits its turn, as long as there is room. */
  #sendWaiting(): void {
    const streams = this.#waiting;
    this.#waiting = [];
    for (const stream of streams) {
      stream.isWaiting = false;
      if (!stream.isClosed) {
        stream.send();
      }
    }
  }

  #read(chunk: Buffer): void {
    if (this.#isOver) {
      return;
    }
    const data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    try {
      const at = this.#readFrames(data, this.#hasPreface ? 0 : this.#readPreface(data));
      this.#rest = at === data.length ? nothing : data.subarray(at);
    } catch (error) {
      if (!(error instanceof Http2Error)) {
        throw error;
      }
      this.#fail(error.code, error.message);
    }
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
    while (this.#hasPreface && data.length - at >= frameHeadBytes && !this.#isOver) {
      const bytes = data.readUIntBE(at, 3);
      if (bytes > payloadBytesMax) {
        throw new Http2Error(errorCodes.frameSizeError, "A frame is too large");
      }
      const from = at + frameHeadBytes;
      if (data.length - from < bytes) {
        break;
      }
      const id = data.readUInt32BE(at + 5) & windowBytesMax;
      const type = data[at + 3] as number;
      const bits = data[at + 4] as number;
      at = from + bytes;
      this.#readFrame({ type, bits, id }, data.subarray(from, at));
    }
    return at;
  }

  #readFrame({ type, bits, id }: FrameHead, payload: Buffer): void {
    const isContinued = this.#continued !== undefined;
    if (isContinued !== (type === frameTypes.continuation)) {
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
        this.#onData(id, bits, payload);
        break;
      case frameTypes.headers:
        this.#onHeaders(id, bits, payload);
        break;
      case frameTypes.continuation:
        this.#onContinuation(id, bits, payload);
        break;
      case frameTypes.priority:
        assertFrame(id !== 0, payload.length === 5, "PRIORITY");
        break;
      case frameTypes.reset:
        this.#onReset(id, payload);
        break;
      case frameTypes.settings:
        this.#onSettings(id, bits, payload);
        break;
      case frameTypes.ping:
        this.#onPing(id, bits, payload);
        break;
      case frameTypes.goaway:
        this.#onGoaway(id, payload);
        break;
      case frameTypes.windowUpdate:
        this.#onWindowUpdate(id, payload);
        break;
      case frameTypes.pushPromise:
        throw new Http2Error(errorCodes.protocolError, "A client may not send PUSH_PROMISE");
      default:
        this.#countIdle();
    }
  }

  #onData(id: number, bits: number, payload: Buffer): void {
    const stream = this.#find(id);
    const part = unpad(payload, bits, 0);
    const size = payload.length;
    this.#receiveWindow -= size;
    if (this.#receiveWindow < 0) {
      throw new Http2Error(errorCodes.flowControlError, "There is more data than the window takes");
    }
    const isLast = (bits & flags.endStream) !== 0;
    if (part.length === 0 && !isLast) {
      this.#countIdle();
    }
    if (stream === undefined) {
      this.credit(size);
    } else {
      stream.receive(part, { size, isLast });
    }
  }

  #onHeaders(id: number, bits: number, payload: Buffer): void {
    if (id % 2 === 0) {
      throw new Http2Error(errorCodes.protocolError, "A stream of a client has an odd number");
    }
    const block = unpad(payload, bits, (bits & flags.priority) === 0 ? 0 : 5);
    const isLast = (bits & flags.endStream) !== 0;
    if ((bits & flags.endHeaders) === 0) {
      this.#continued = { id, isLast, parts: [block], bytes: block.length };
    } else {
      this.#onBlock(id, isLast, block);
    }
  }

  #onContinuation(id: number, bits: number, payload: Buffer): void {
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
      this.#onBlock(id, continued.isLast, Buffer.concat(continued.parts, continued.bytes));
    }
  }

  // A block is read in any case: it may change what the next ones mean.
  #onBlock(id: number, isLast: boolean, block: Buffer): void {
    const { fields, isTooLarge } = this.#decoder.decode(block);
    const known = this.streams.get(id);
    if (known !== undefined) {
      if (!isLast || isTooLarge || !areTrailers(fields)) {
        known.breakRule();
      } else {
        known.receive(nothing, { size: 0, isLast });
      }
      return;
    }
    if (id <= this.#lastId) {
      // Of a stream that was closed while this was on its way.
      this.countFault();
      return;
    }
    this.#lastId = id;
    if (this.#isClosing || this.streams.size >= streamsMax) {
      this.#refuse(id);
      return;
    }
    const head = readRequestHead(fields);
    const isBroken = "problem" in head || (isLast && (head.contentLength ?? 0) > 0);
    if (isTooLarge || isBroken) {
      this.writeReset(id, isTooLarge ? errorCodes.enhanceYourCalm : errorCodes.protocolError);
      this.countFault();
      return;
    }
    this.#refusals = 0;
    const stream = new Http2Stream(this, { id, head, isLast, sendWindow: this.#streamSendWindow });
    this.streams.add(stream);
    this.#listeners.onStream(stream);
  }

  #refuse(id: number): void {
    this.writeReset(id, errorCodes.refusedStream);
    this.#refusals += 1;
    if (this.#refusals > refusalsMax) {
      throw new Http2Error(errorCodes.enhanceYourCalm, "too_many_streams");
    }
  }

  #onReset(id: number, payload: Buffer): void {
    assertFrame(id !== 0, payload.length === 4, "RST_STREAM");
    const stream = this.#find(id);
    this.countFault();
    stream?.drop(payload.readUInt32BE(0));
  }

  #onSettings(id: number, bits: number, payload: Buffer): void {
    const isAck = (bits & flags.ack) !== 0;
    assertFrame(id === 0, isAck ? payload.length === 0 : payload.length % 6 === 0, "SETTINGS");
    if (isAck) {
      return;
    }
    this.#countIdle();
    for (let at = 0; at < payload.length; at += 6) {
      this.#set(payload.readUInt16BE(at), payload.readUInt32BE(at + 2));
    }
    this.#frame(frameTypes.settings, flags.ack, 0, 0);
  }

  #set(name: number, value: number): void {
    if (name === settings.enablePush && value > 1) {
      throw new Http2Error(errorCodes.protocolError, "ENABLE_PUSH is neither 0 nor 1");
    }
    if (name === settings.maxFrameSize) {
      if (value < payloadBytesMax || value >= 2 ** 24) {
        throw new Http2Error(errorCodes.protocolError, "MAX_FRAME_SIZE is out of range");
      }
      this.#payloadMax = Math.min(value, outputBytesMax);
    }
    if (name === settings.initialWindowSize) {
      if (value > windowBytesMax) {
        throw new Http2Error(errorCodes.flowControlError, "INITIAL_WINDOW_SIZE is out of range");
      }
      const change = value - this.#streamSendWindow;
      this.#streamSendWindow = value;
      for (const stream of this.streams.all()) {
        widen(stream, change);
      }
      this.#schedule();
    }
  }

  #onPing(id: number, bits: number, payload: Buffer): void {
    assertFrame(id === 0, payload.length === 8, "PING");
    if ((bits & flags.ack) === 0) {
      this.#countIdle();
      payload.copy(this.#frame(frameTypes.ping, flags.ack, 0, 8));
    } else if (this.#isLeaving) {
      this.close();
    }
  }

  #onGoaway(id: number, payload: Buffer): void {
    assertFrame(id === 0, payload.length >= 8, "GOAWAY");
    if (payload.readUInt32BE(4) === errorCodes.noError) {
      this.close();
    } else {
      this.#isOver = true;
      this.socket.destroy();
    }
  }

  #onWindowUpdate(id: number, payload: Buffer): void {
    assertFrame(true, payload.length === 4, "WINDOW_UPDATE");
    const bytes = payload.readUInt32BE(0) & windowBytesMax;
    const stream = id === 0 ? undefined : this.#find(id);
    if (bytes === 0) {
      if (id === 0) {
        throw new Http2Error(errorCodes.protocolError, "WINDOW_UPDATE is of nothing");
      }
      stream?.breakRule();
      return;
    }
    if (id !== 0) {
      if (stream !== undefined) {
        widen(stream, bytes);
        stream.send();
      }
      return;
    }
    this.#sendWindow += bytes;
    if (this.#sendWindow > windowBytesMax) {
      throw new Http2Error(errorCodes.flowControlError, "The window is too large");
    }
    if (this.#waiting.length > 0) {
      this.#schedule();
    }
  }

  /** An open stream. Undefined: it is closed. Throws Http2Error if there was none. */
  #find(id: number): Http2Stream | undefined {
    if (id === 0 || id % 2 === 0 || id > this.#lastId) {
      throw new Http2Error(errorCodes.protocolError, "There is no stream of a number");
    }
    return this.streams.get(id);
  }

  #countIdle(): void {
    if (!this.#idleFrames.take(performance.now())) {
      throw new Http2Error(errorCodes.enhanceYourCalm, "too_many_pings");
    }
  }

  /** End the connection for the client's fault. */
  #fail(code: number, reason: string): void {
    if (this.#isOver) {
      return;
    }
    this.#writeGoaway(this.#lastId, code, reason);
    this.#isOver = true;
    this.#write();
    this.socket.destroySoon();
  }

  #onIdle(): void {
    if (this.#isOver || this.#isClosing) {
      this.socket.destroy();
    } else if (this.streams.size === 0) {
      this.close();
    }
  }

  #onGone(): void {
    this.#isOver = true;
    for (const stream of this.streams.all()) {
      stream.drop(errorCodes.cancel);
    }
    this.#listeners.onClose();
  }
}

interface FrameHead {
  readonly type: number;
  readonly bits: number;
  readonly id: number;
}

const nothing = Buffer.alloc(0);

function flush(connection: Http2Connection): void {
  connection.flush();
}

// A broken connection is the client's affair: whoever serves a request sees it close.
function ignore(): void {}

function writeFrameHead(
  to: Buffer,
  at: number,
  head: { type: number; flags: number; id: number; bytes: number },
): void {
  to.writeUIntBE(head.bytes, at, 3);
  to[at + 3] = head.type;
  to[at + 4] = head.flags;
  to.writeUInt32BE(head.id, at + 5);
}

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

function assertFrame(isOfStream: boolean, hasSize: boolean, name: string): void {
  if (!isOfStream) {
    throw new Http2Error(errorCodes.protocolError, `${name} may not be of this stream`);
  }
  if (!hasSize) {
    throw new Http2Error(errorCodes.frameSizeError, `${name} may not have this size`);
  }
}

function widen(stream: Http2Stream, bytes: number): void {
  stream.sendWindow += bytes;
  if (stream.sendWindow > windowBytesMax) {
    stream.reset(errorCodes.flowControlError);
  }
}

let date = "";
let dateSecond = 0;

/** The time of a reply, for its header. */
function dateNow(): string {
  const second = Math.floor(Date.now() / 1000);
  if (second !== dateSecond) {
    dateSecond = second;
    date = new Date(second * 1000).toUTCString();
  }
  return date;
}
