import type { Socket } from "node:net";
import { Budget } from "./budget.ts";
import {
  defaultWindowBytes,
  errorCodes,
  flags,
  frameTypes,
  Http2Error,
  payloadBytesMax,
  settings,
  windowBytesMax,
} from "./codes.ts";
import { type Frame, FrameReader } from "./frame-reader.ts";
import { type Block, FrameWriter } from "./frame-writer.ts";
import { HeaderDecoder } from "./header-decoder.ts";
import type { HeaderValue } from "./header-encoder.ts";
import { areTrailers, readRequestHead } from "./request-head.ts";
import { type OnWritten, outputBytesMax, SocketWriter } from "./socket-writer.ts";
import { Http2Stream, streamWindowBytes } from "./stream.ts";
import { StreamTable } from "./stream-table.ts";

/** Whom a connection tells. */
export interface Http2Listeners {
  /** The head of a request has arrived. Its body may follow. */
  onStream(stream: Http2Stream): void;
  /** The connection is gone. */
  onClose(): void;
}

const streamsMax = 100;
const windowBytes = 1024 * 1024;
/** Of names and values with their overhead. What is told of a target that is too long must come before. */
const headerListBytesMax = 32 * 1024;
/** Streams in a row that were refused because there were too many. */
const refusalsMax = 100;
/** Streams that were reset, and faults: a client that opens and resets streams without end costs more than it pays. */
const resets = { max: 200, perSecond: 20 };
const ownSettings = [
  [settings.enablePush, 0],
  [settings.maxConcurrentStreams, streamsMax],
  [settings.initialWindowSize, streamWindowBytes],
  [settings.maxHeaderListSize, headerListBytesMax],
] as const;

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
  readonly #reader = new FrameReader((frame) => this.#onFrame(frame));
  readonly #writer = new FrameWriter(() => this.#out.schedule());
  readonly #out: SocketWriter;
  readonly #resets = new Budget(resets);
  readonly #idleFrames = new Budget(idleFrames);

  #lastId = 0;
  #refusals = 0;

  #sendWindow = defaultWindowBytes;
  #streamSendWindow = defaultWindowBytes;
  #receiveWindow = windowBytes;
  #unannounced = 0;

  /** Streams that have more to send. */
  #waiting: Http2Stream[] = [];
  /** Streams that were closed, whose listeners are to be told. */
  #closed: Http2Stream[] = [];
  #isLeaving = false;
  #isClosing = false;
  #isOver = false;

  constructor(
    socket: Socket,
    { idleTimeoutMs, ...listeners }: Http2Listeners & { idleTimeoutMs: number },
  ) {
    this.socket = socket;
    this.#out = new SocketWriter(socket, this.#writer.output, () => this.#onTurn());
    this.#listeners = listeners;
    socket.on("error", ignore);
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    // A client that ends its side reads no replies: half of a connection is no use in HTTP/2.
    socket.on("end", () => socket.destroy());
    socket.on("close", () => this.#onGone());
    socket.setTimeout(idleTimeoutMs, () => this.#onIdle());
    this.#writer.settings(ownSettings);
    this.#writer.windowUpdate(0, windowBytes - defaultWindowBytes);
    socket.resume();
  }

  /** Bytes that the next frame of a reply's body may have now. */
  get room(): number {
    return this.#out.isFull ? 0 : Math.min(this.#sendWindow, this.#writer.payloadMax);
  }

  /**
   * Say that the connection ends, and a round trip later which streams still count: a request that the client sends
   * meanwhile is served, not lost.
   */
  leave(): void {
    if (!this.#isLeaving && !this.#isClosing) {
      this.#isLeaving = true;
      this.#writer.goaway(windowBytesMax, errorCodes.noError);
      this.#writer.ping();
    }
  }

  /** Take no more streams, and end when there are none. */
  close(): void {
    if (!this.#isClosing && !this.#isOver) {
      this.#isClosing = true;
      this.#writer.goaway(this.#lastId, errorCodes.noError);
    }
    this.#out.schedule();
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
        this.#out.schedule();
      }
    }
  }

  /** Tell of it when all that was added so far is written. */
  onceWritten(listener: OnWritten): void {
    this.#out.onceWritten(listener);
  }

  /** A stream is closed. */
  remove(stream: Http2Stream): void {
    this.streams.delete(stream);
    this.#closed.push(stream);
    this.#out.schedule();
  }

  /** The client broke a rule, or a stream off. Too often, and the connection ends. */
  countFault(): void {
    if (!this.#resets.take(performance.now())) {
      this.#fail(errorCodes.enhanceYourCalm, "too_many_resets");
    }
  }

  /** Send the head of a reply, and when that was unless it says so. */
  writeReply(id: number, { fields, ...rest }: Block): void {
    this.writeHeaders(id, { ...rest, fields: hasDate(fields) ? fields : withDate(fields) });
  }

  writeHeaders(id: number, block: Block): void {
    this.#idleFrames.refill();
    this.#writer.headers(id, block);
  }

  writeData(id: number, data: Uint8Array, isLast: boolean): void {
    this.#idleFrames.refill();
    this.#sendWindow -= data.length;
    this.#writer.data(id, data, isLast);
  }

  writeReset(id: number, code: number): void {
    this.#writer.reset(id, code);
  }

  writeWindowUpdate(id: number, bytes: number): void {
    this.#writer.windowUpdate(id, bytes);
  }

  /** Tell of the streams that what was written has ended, and go on with those that wait. */
  #onTurn(): void {
    const closed = this.#closed;
    if (closed.length > 0) {
      this.#closed = [];
      for (const stream of closed) {
        stream.tellClosed();
      }
    }
    if (!this.#out.isFull && this.#waiting.length > 0) {
      this.#sendWaiting();
    }
    if (this.#isLeaving && this.streams.size === 0) {
      this.close();
    }
    if (this.#isClosing && this.streams.size === 0 && !this.#isOver) {
      this.#stop();
      this.#out.write();
      this.socket.end();
    }
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
    try {
      this.#reader.read(chunk);
    } catch (error) {
      if (!(error instanceof Http2Error)) {
        throw error;
      }
      this.#fail(error.code, error.message);
    }
  }

  #onFrame(frame: Frame): void {
    const { type, bits, id, payload } = frame;
    switch (type) {
      case frameTypes.data:
        this.#onData(frame);
        break;
      case frameTypes.headers:
        this.#onHeaders(id, (bits & flags.endStream) !== 0, payload);
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

  #onData({ id, bits, payload, size }: Frame): void {
    const stream = this.#find(id);
    this.#receiveWindow -= size;
    if (this.#receiveWindow < 0) {
      throw new Http2Error(errorCodes.flowControlError, "There is more data than the window takes");
    }
    const isLast = (bits & flags.endStream) !== 0;
    if (payload.length === 0 && !isLast) {
      this.#countIdle();
    }
    if (stream === undefined) {
      this.credit(size);
    } else {
      stream.receive(payload, { size, isLast });
    }
  }

  // A block is read in any case: it may change what the next ones mean.
  #onHeaders(id: number, isLast: boolean, block: Buffer): void {
    if (id % 2 === 0) {
      throw new Http2Error(errorCodes.protocolError, "A stream of a client has an odd number");
    }
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
    this.#writer.settingsAck();
  }

  #set(name: number, value: number): void {
    if (name === settings.enablePush && value > 1) {
      throw new Http2Error(errorCodes.protocolError, "ENABLE_PUSH is neither 0 nor 1");
    }
    if (name === settings.maxFrameSize) {
      if (value < payloadBytesMax || value >= 2 ** 24) {
        throw new Http2Error(errorCodes.protocolError, "MAX_FRAME_SIZE is out of range");
      }
      this.#writer.payloadMax = Math.min(value, outputBytesMax);
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
      this.#out.schedule();
    }
  }

  #onPing(id: number, bits: number, payload: Buffer): void {
    assertFrame(id === 0, payload.length === 8, "PING");
    if ((bits & flags.ack) === 0) {
      this.#countIdle();
      this.#writer.pingAck(payload);
    } else if (this.#isLeaving) {
      this.close();
    }
  }

  #onGoaway(id: number, payload: Buffer): void {
    assertFrame(id === 0, payload.length >= 8, "GOAWAY");
    if (payload.readUInt32BE(4) === errorCodes.noError) {
      this.close();
    } else {
      this.#stop();
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
      this.#out.schedule();
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
    this.#writer.goaway(this.#lastId, code, reason);
    this.#stop();
    this.#out.write();
    this.socket.destroySoon();
  }

  /** Nothing more is read. */
  #stop(): void {
    this.#isOver = true;
    this.#reader.stop();
  }

  #onIdle(): void {
    if (this.#isOver) {
      this.socket.destroy();
    } else if (this.streams.size === 0) {
      this.close();
    }
  }

  #onGone(): void {
    this.#stop();
    for (const stream of this.streams.all()) {
      stream.drop(errorCodes.cancel);
    }
    this.#listeners.onClose();
  }
}

const nothing = Buffer.alloc(0);

// A broken connection is the client's affair: whoever serves a request sees it close.
function ignore(): void {}

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

function hasDate(fields: readonly HeaderValue[]): boolean {
  for (let index = 0; index < fields.length; index += 2) {
    if (fields[index] === "date") {
      return true;
    }
  }
  return false;
}

function withDate(fields: readonly HeaderValue[]): HeaderValue[] {
  return [...fields, "date", dateNow()];
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
