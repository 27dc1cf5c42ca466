import { errorCodes } from "./codes.ts";
import type { Http2Connection } from "./connection.ts";
import { assertValues, type HeaderValue } from "./header-encoder.ts";
import type { RequestHead } from "./request-head.ts";
import type { OnWritten } from "./socket-writer.ts";

/** Takes the body of a request. */
export interface BodyReader {
  /** The next part. Returns false to be given no more until the stream is resumed. */
  add(part: Buffer): boolean;
  /** The body is whole. */
  finish(): void;
  /** No more will come of it, though it is not whole. */
  fail(): void;
}

/** Part of a reply that waits to be sent. */
interface Part {
  readonly bytes: Uint8Array;
  /** What of it was sent. */
  at: number;
  /** Told when all of it was written to the socket. */
  readonly onWritten: OnWritten | undefined;
}

/** Fields that come after a body: names in lower case and values by turns. */
export type Trailers = readonly HeaderValue[];

/** Bytes that a client may send on a stream before they are read. */
export const streamWindowBytes = 1024 * 1024;

/** Bytes of a body that are dropped before its stream is reset. */
const droppedBytesMax = 16 * 1024 * 1024;

/** Bytes of one stream that are sent before it is another one's turn. */
const turnBytes = 64 * 1024;

/** A request and its reply. It is closed when both are whole, or either side has broken it off. */
export class Http2Stream {
  readonly id: number;
  readonly head: RequestHead;
  readonly connection: Http2Connection;
  /** Whether a body follows the head. */
  readonly hasBody: boolean;
  /** Of the reply, once its head is sent. */
  status = 0;
  /** Whether the reply has been handed over as a whole; its end may still wait for the client. */
  isEnded = false;
  isClosed = false;
  /** Whether it was closed before the reply was sent. */
  isAborted = false;
  /** Why either side broke it off. */
  resetCode: number = errorCodes.noError;
  /** Told once it is closed, a little later. */
  onClosed: (() => void) | undefined;
  /** Told once the reply is sent. */
  onSent: (() => void) | undefined;
  /** Bytes of the reply that the client takes as yet. */
  sendWindow: number;
  /** Whether the connection knows that parts of it wait. */
  isWaiting = false;

  #isReceived: boolean;
  #isSent = false;
  #bytesLeft: number;
  #receiveWindow = streamWindowBytes;
  #unannounced = 0;
  #reader: BodyReader | undefined;
  #isPaused = false;
  #unread: Buffer[] = [];
  #dropsLeft: number | undefined;
  #parts: Part[] = [];
  #trailers: Trailers | undefined;
  #resetOnceSent: number | undefined;

  constructor(
    connection: Http2Connection,
    {
      id,
      head,
      isLast,
      sendWindow,
    }: { id: number; head: RequestHead; isLast: boolean; sendWindow: number },
  ) {
    this.connection = connection;
    this.id = id;
    this.head = head;
    this.hasBody = !isLast;
    this.sendWindow = sendWindow;
    this.#isReceived = isLast;
    this.#bytesLeft = head.contentLength ?? Number.POSITIVE_INFINITY;
  }

  /** Whether neither the request nor the reply is whole. */
  get isOpen(): boolean {
    return !this.#isReceived && !this.#isSent && !this.isClosed;
  }

  /** Whether either side broke it off. */
  get isCutOff(): boolean {
    return this.isAborted || this.resetCode !== errorCodes.noError;
  }

  /** Take a part of the body. `size` counts the padding too. */
  receive(part: Buffer, { size, isLast }: { size: number; isLast: boolean }): void {
    if (this.#isReceived) {
      this.connection.credit(size);
      this.reset(errorCodes.streamClosed);
      return;
    }
    this.#receiveWindow -= size;
    this.#bytesLeft -= part.length;
    if (this.#receiveWindow < 0) {
      this.connection.credit(size);
      this.reset(errorCodes.flowControlError);
      return;
    }
    if (this.#bytesLeft < 0 || (isLast && !this.#isLengthKept)) {
      this.connection.credit(size);
      this.breakRule();
      return;
    }
    this.#credit(size - part.length);
    if (part.length > 0) {
      this.#take(part);
    }
    if (isLast) {
      this.finishBody();
    }
  }

  /** The body is whole, as the client says. */
  finishBody(): void {
    if (!this.#isLengthKept) {
      this.breakRule();
      return;
    }
    this.#isReceived = true;
    this.#finishReader();
    if (this.#isSent) {
      this.#close();
    }
  }

  /** Break it off because the client sent what may not be. */
  breakRule(): void {
    this.reset(errorCodes.protocolError);
    this.connection.countFault();
  }

  /** Have the body handed to a reader: what has come of it at once. */
  readTo(reader: BodyReader): void {
    this.#reader = reader;
    this.#isPaused = false;
    this.#handOver();
  }

  /** Hand more of the body to a reader that had enough. */
  resume(): void {
    this.#isPaused = false;
    this.#handOver();
  }

  /** Drop what is not read of the body. When that is too much, the stream is reset once the reply is sent. */
  discard(): void {
    this.#reader = undefined;
    this.#dropsLeft ??= droppedBytesMax;
    const parts = this.#unread;
    this.#unread = [];
    for (const part of parts) {
      this.#drop(part.length);
    }
  }

  /** Send a status on the way to the reply: a 1xx. */
  inform(status: number): void {
    if (!this.isClosed && this.status === 0) {
      this.connection.writeHeaders(this.id, { status, fields: [], isLast: false });
    }
  }

  /** Send the head of the reply. Header names are in lower case. Throws TypeError if a value is malformed. */
  sendHead(status: number, fields: readonly HeaderValue[], { isLast }: { isLast: boolean }): void {
    if (this.isClosed || this.status !== 0) {
      return;
    }
    assertValues(fields);
    this.connection.writeReply(this.id, { status, fields, isLast });
    this.status = status;
    if (isLast) {
      this.isEnded = true;
      this.#finishSending();
    }
  }

  /** Send a whole reply. */
  respond(
    status: number,
    fields: readonly HeaderValue[],
    { body, trailers }: { body: Uint8Array | undefined; trailers?: Trailers | undefined },
  ): void {
    this.sendHead(status, fields, { isLast: body === undefined && trailers === undefined });
    if (this.isEnded || this.isClosed) {
      return;
    }
    if (body !== undefined && body.length > 0) {
      this.#parts.push({ bytes: body, at: 0, onWritten: undefined });
    }
    this.end(trailers);
  }

  /** Send a part of the reply's body, which must not change until it is written. Nothing is told if it never is. */
  write(bytes: Uint8Array, onWritten: OnWritten): void {
    if (this.isClosed || this.isEnded) {
      onWritten();
      return;
    }
    this.#parts.push({ bytes, at: 0, onWritten });
    this.send();
  }

  /** There is no more of the reply. Throws TypeError if a value of the trailers is malformed. */
  end(trailers?: Trailers): void {
    if (this.isEnded || this.isClosed) {
      return;
    }
    assertValues(trailers ?? []);
    this.isEnded = true;
    this.#trailers = trailers;
    this.send();
  }

  /** Send what the client takes. */
  send(): void {
    let turn = turnBytes;
    while (this.#parts.length > 0) {
      const part = this.#parts[0] as Part;
      const left = part.bytes.length - part.at;
      const bytes = Math.max(0, Math.min(left, this.connection.room, this.sendWindow));
      if (left > 0 && (bytes === 0 || turn <= 0)) {
        this.connection.wait(this);
        return;
      }
      turn -= bytes;
      this.sendWindow -= bytes;
      const data = part.bytes.subarray(part.at, part.at + bytes);
      part.at += bytes;
      const isWhole = part.at === part.bytes.length;
      if (isWhole) {
        this.#parts.shift();
      }
      const isLast =
        this.#parts.length === 0 && isWhole && this.isEnded && this.#trailers === undefined;
      this.connection.writeData(this.id, data, isLast);
      if (isWhole && part.onWritten !== undefined) {
        this.connection.onceWritten(part.onWritten);
      }
      if (isLast) {
        this.#finishSending();
        return;
      }
    }
    if (this.isEnded && !this.#isSent) {
      if (this.#trailers === undefined) {
        this.connection.writeData(this.id, nothing, true);
      } else {
        const trailers = { status: undefined, fields: this.#trailers, isLast: true };
        this.connection.writeHeaders(this.id, trailers);
      }
      this.#finishSending();
    }
  }

  /** Break it off. Without effect once it is closed. */
  reset(code: number): void {
    if (!this.isClosed) {
      this.connection.writeReset(this.id, code);
      this.drop(code);
    }
  }

  /** Break it off once the reply is sent. */
  resetOnceSent(code: number): void {
    if (this.#isSent) {
      this.reset(code);
    } else {
      this.#resetOnceSent = code;
    }
  }

  /** The client has broken it off, or the connection is gone. */
  drop(code: number): void {
    if (this.isClosed) {
      return;
    }
    this.resetCode = code;
    this.isAborted = !this.#isSent;
    this.#parts = [];
    for (const part of this.#unread) {
      this.connection.credit(part.length);
    }
    this.#unread = [];
    this.#close();
  }

  /** The connection has told the client that it is closed. */
  tellClosed(): void {
    if (this.isCutOff) {
      this.#finishReader();
    }
    this.onClosed?.();
  }

  get #isLengthKept(): boolean {
    return this.#bytesLeft === 0 || this.#bytesLeft === Number.POSITIVE_INFINITY;
  }

  #take(part: Buffer): void {
    if (this.#dropsLeft !== undefined) {
      this.#drop(part.length);
    } else if (this.#reader === undefined || this.#isPaused) {
      this.#unread.push(part);
    } else {
      this.#credit(part.length);
      this.#isPaused = !this.#reader.add(part);
    }
  }

  #handOver(): void {
    while (!this.#isPaused && this.#unread.length > 0 && this.#reader !== undefined) {
      const part = this.#unread.shift() as Buffer;
      this.#credit(part.length);
      this.#isPaused = !this.#reader.add(part);
    }
    this.#finishReader();
  }

  #finishReader(): void {
    if (this.#unread.length > 0 || this.#reader === undefined) {
      return;
    }
    const reader = this.#reader;
    if (this.#dropsLeft !== undefined || (this.isClosed && this.isCutOff)) {
      this.#reader = undefined;
      reader.fail();
    } else if (this.#isReceived) {
      this.#reader = undefined;
      reader.finish();
    }
  }

  #drop(bytes: number): void {
    this.#dropsLeft = (this.#dropsLeft ?? 0) - bytes;
    if (this.#dropsLeft >= 0) {
      this.#credit(bytes);
    } else {
      this.connection.credit(bytes);
      this.resetOnceSent(errorCodes.noError);
    }
  }

  /** So many bytes were read: the client may send as many more. */
  #credit(bytes: number): void {
    this.connection.credit(bytes);
    this.#unannounced += bytes;
    if (this.#unannounced >= streamWindowBytes / 2 && !this.#isReceived && !this.isClosed) {
      this.connection.writeWindowUpdate(this.id, this.#unannounced);
      this.#receiveWindow += this.#unannounced;
      this.#unannounced = 0;
    }
  }

  #finishSending(): void {
    this.#isSent = true;
    const { onSent } = this;
    this.onSent = undefined;
    onSent?.();
    if (this.#reader === undefined) {
      this.discard();
    }
    if (this.#isReceived) {
      this.#close();
    } else if (this.#resetOnceSent !== undefined) {
      this.reset(this.#resetOnceSent);
    }
  }

  #close(): void {
    if (!this.isClosed) {
      this.isClosed = true;
      this.connection.remove(this);
    }
  }
}

const nothing = Buffer.alloc(0);
