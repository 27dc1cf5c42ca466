import { Duplex } from "node:stream";
import { errorCodes } from "./codes.ts";
import type { HeaderValue } from "./header-encoder.ts";
import type { OnWritten } from "./socket-writer.ts";
import type { Http2Stream } from "./stream.ts";

type Fields = Readonly<Record<string, number | string | readonly string[] | undefined>>;

/**
 * A stream of HTTP/2 as Node's own: what its classes for requests and replies, and libraries that are written for them,
 * make use of. Short calls do without.
 */
export class Http2Duplex extends Duplex {
  readonly #stream: Http2Stream;
  #hasTrailers = false;
  #trailers: HeaderValue[] | undefined;
  #hasNoBody = false;
  #isRead = false;

  constructor(stream: Http2Stream) {
    super({ autoDestroy: false, highWaterMark: 64 * 1024 });
    this.#stream = stream;
    this.on("error", ignore);
  }

  /** Node's classes then ask the stream what they would ask the socket. */
  get session(): undefined {
    return undefined;
  }

  get encrypted(): boolean {
    return "encrypted" in this.#stream.connection.socket;
  }

  get aborted(): boolean {
    return this.#stream.isAborted;
  }

  get rstCode(): number {
    return this.#stream.resetCode;
  }

  get headersSent(): boolean {
    return this.#stream.status !== 0;
  }

  get headRequest(): boolean {
    return this.#hasNoBody;
  }

  respond(
    headers: Fields,
    {
      endStream = false,
      waitForTrailers = false,
    }: { endStream?: boolean; waitForTrailers?: boolean } = {},
  ): void {
    const status = Number(headers[":status"] ?? 200);
    this.#hasNoBody =
      this.#stream.head.headers[":method"] === "HEAD" || [204, 205, 304].includes(status);
    this.#hasTrailers = waitForTrailers && !this.#hasNoBody;
    const isLast = this.#hasNoBody || (endStream && !waitForTrailers);
    this.#stream.sendHead(status, toFields(headers), { isLast });
  }

  additionalHeaders(headers: Fields): void {
    this.#stream.inform(Number(headers[":status"]));
  }

  sendTrailers(headers: Fields): void {
    const fields = toFields(headers);
    this.#trailers = fields.length === 0 ? undefined : fields;
  }

  close(code: number = errorCodes.noError): void {
    this.#stream.reset(code);
  }

  /** The port's own limits hold: Node's classes only pass on what their users ask. */
  setTimeout(): this {
    return this;
  }

  /** To be told when the stream is closed. */
  onStreamClosed(): void {
    if (this.#stream.isAborted) {
      this.emit("aborted");
    }
    const isRead = this.readableEnded || this.readableFlowing === null || this.#stream.isCutOff;
    if (isRead) {
      this.destroy();
    } else {
      // What has come of the body is still there for whoever reads it.
      this.once("end", () => this.destroy());
    }
  }

  // Only then: until somebody reads here, the body may as well be read from the stream itself.
  override _read(): void {
    if (this.#isRead) {
      this.#stream.resume();
    } else {
      this.#isRead = true;
      this.#stream.readTo({
        add: (part) => this.push(part),
        finish: () => this.push(null),
        fail: ignore,
      });
    }
  }

  override _write(chunk: Buffer, _encoding: string, callback: OnWritten): void {
    if (this.#hasNoBody) {
      callback();
    } else {
      this.#stream.write(chunk, callback);
    }
  }

  override _final(callback: () => void): void {
    if (this.#stream.isEnded || this.#stream.isClosed) {
      callback();
      return;
    }
    this.#stream.onSent = callback;
    if (this.#hasTrailers) {
      this.emit("wantTrailers");
    }
    this.#stream.end(this.#trailers);
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#stream.reset(error === null ? errorCodes.cancel : errorCodes.internalError);
    this.#stream.discard();
    callback(error);
  }
}

function toFields(headers: Fields): HeaderValue[] {
  const fields: HeaderValue[] = [];
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined && name !== ":status") {
      fields.push(name, typeof value === "object" ? value : String(value));
    }
  }
  return fields;
}

// A broken stream is the client's affair: whoever reads or writes it sees it close.
function ignore(): void {}
