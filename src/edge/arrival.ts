import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import { Http2ServerRequest, Http2ServerResponse, type ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { discardBody } from "./http-message.ts";
import { errorCodes } from "./http2/codes.ts";
import { Http2Duplex } from "./http2/duplex.ts";
import type { HeaderValue } from "./http2/header-encoder.ts";
import type { BodyReader, Http2Stream, Trailers } from "./http2/stream.ts";

/** What Node's own classes make of a request and its reply, in either version of HTTP. */
export interface Opened {
  readonly request: IncomingMessage | Http2ServerRequest;
  readonly response: ServerResponse | Http2ServerResponse;
}

/** A reply that is streamed. What is written before the headers were sent goes with them. */
export type ReplyStream = Writable & {
  /** Send the headers now, before there is a body. */
  flushHeaders(): void;
  /** Say what comes after the body. Over HTTP/1.1 only without a length. */
  addTrailers(trailers: Readonly<Record<string, string>>): void;
};

/**
 * A request that has arrived, and its reply. A whole reply is sent at once, its headers with it. Whoever
 * streams, or hands the request to a library, opens it: over HTTP/2 that makes the objects of Node that
 * a short call has no need of, and which cost as much as the rest of it.
 */
export abstract class Arrival {
  readonly method: string;
  /** The request target, as sent. */
  readonly url: string;
  /** Names in lower case; over HTTP/2 with the pseudo-headers. */
  readonly headers: IncomingHttpHeaders;
  /** Names and values by turns: what the reply begins with. Once opened, the response has them. */
  protected head: HeaderValue[] = [];
  /** Told as those of onceClosed(), after them: whoever serves the request, without a function of its own. */
  closing: { onClosed(): void } | undefined = undefined;
  #onceClosed: (() => void)[] = [];

  constructor({ method, url, headers }: Pick<Arrival, "method" | "url" | "headers">) {
    this.method = method;
    this.url = url;
    this.headers = headers;
  }

  /** The reply has ended, or the client has left. */
  close(): void {
    const listeners = this.#onceClosed;
    // Meanwhile one may take itself off, which must not move those after it.
    this.#onceClosed = [];
    for (const listener of listeners) {
      listener();
    }
    const { closing } = this;
    this.closing = undefined;
    closing?.onClosed();
  }

  /** Names and values by turns, as sent; over HTTP/2 with the pseudo-headers. */
  abstract readonly rawHeaders: readonly string[];
  /** The host that the client named. */
  abstract readonly authority: string | undefined;
  abstract readonly socket: Socket | undefined;
  /** Whether the connection is encrypted. */
  get isSecure(): boolean {
    return this.socket !== undefined && "encrypted" in this.socket;
  }

  /** The body. */
  abstract readonly body: Readable;
  /** Have the body handed to a reader that never has enough, instead. */
  abstract readTo(reader: BodyReader): void;
  /** Whether there is a body to read, by the headers. */
  abstract readonly hasBody: boolean;
  /** Whether nobody can read the reply any more. */
  abstract readonly isGone: boolean;
  /** Whether either side broke the request off. Over HTTP/1.1 the body says so itself. */
  abstract readonly isCutOff: boolean;
  abstract readonly headersSent: boolean;
  /** The status of the reply, once its headers are sent. */
  abstract readonly status: number;
  protected abstract readonly opened: Opened | undefined;

  /** Node's own objects for the request and its reply. */
  abstract open(): Opened;

  /** Send a whole reply. Header names are in lower case. Trailers are for HTTP/2 alone. */
  abstract send(
    status: number,
    headers: Readonly<Record<string, string>>,
    body: string | Uint8Array | undefined,
    trailers?: Trailers,
  ): void;

  /**
   * Send a whole reply. Names, in lower case, and values by turns; a value that is a list is as many headers. None may
   * be one that was set.
   */
  abstract reply(
    status: number,
    headers: readonly HeaderValue[],
    body: Uint8Array | undefined,
  ): void;

  /** Begin a reply that is streamed, its headers as those of reply(). Opens the arrival. */
  begin(status: number, headers: readonly HeaderValue[]): ReplyStream {
    const response = this.open().response as ServerResponse;
    response.statusCode = status;
    for (let index = 0; index < headers.length; index += 2) {
      response.appendHeader(headers[index] as string, headers[index + 1] as string);
    }
    return response;
  }

  /** Break the reply off, unless it is whole, so that the client cannot take it for a whole one. */
  abstract breakOff(): void;

  /** Have no more of the body once the reply has ended: what still comes is dropped. */
  abstract discard(): void;

  /**
   * The first value of a header. All are to be read by this: where names stand for themselves, the engine
   * compiles for objects with the headers of one client, and again for those of the next.
   */
  header(name: string): string | undefined {
    const value = this.headers[name];
    return typeof value === "object" ? value[0] : value;
  }

  /** Set a header of the reply, its name in lower case. Without effect once the reply has begun. */
  setHeader(name: string, value: HeaderValue): void {
    const { opened, head } = this;
    if (opened !== undefined) {
      if (!this.isGone && !opened.response.headersSent) {
        opened.response.setHeader(name, value as string);
      }
      return;
    }
    for (let index = 0; index < head.length; index += 2) {
      if (head[index] === name) {
        head[index + 1] = value;
        return;
      }
    }
    head.push(name, value);
  }

  /** A header of the reply that was set. */
  replyHeader(name: string): string | undefined {
    const { opened, head } = this;
    if (opened !== undefined) {
      const value = opened.response.getHeader(name);
      return value === undefined ? undefined : String(value);
    }
    const index = head.findIndex((text, at) => at % 2 === 0 && text === name);
    return index < 0 ? undefined : String(head[index + 1]);
  }

  /** Once the reply has ended or the client has left. */
  onceClosed(listener: () => void): void {
    this.#onceClosed.push(listener);
  }

  offClosed(listener: () => void): void {
    const index = this.#onceClosed.indexOf(listener);
    if (index >= 0) {
      this.#onceClosed.splice(index, 1);
    }
  }

  /** Hand the headers so far to the response. */
  protected moveHead({ response }: Opened): void {
    const { head } = this;
    for (let index = 0; index < head.length; index += 2) {
      response.setHeader(head[index] as string, head[index + 1] as string);
    }
    this.head = [];
  }
}

interface Written {
  readonly response: ServerResponse;
  readonly body: string | Uint8Array | undefined;
}

let endings: Written[] = [];

/** Bodies up to this are copied rather than handed on. */
const shortBytesMax = 4_096;

// A write wakes the client if it sleeps, which costs more than the write: the replies to all requests that
// have arrived together are written together, so that it wakes once.
function endAll(): void {
  const all = endings;
  endings = [];
  for (const { response, body } of all) {
    if (body instanceof Uint8Array && body.length <= shortBytesMax) {
      // As text of one byte a character it goes in one piece with the headers.
      const text = Buffer.from(body.buffer, body.byteOffset, body.length).toString("latin1");
      response.end(text, "latin1");
    } else {
      response.end(body);
    }
  }
}

/** A request over HTTP/1.1. */
export class Http1Arrival extends Arrival {
  readonly #pair: Opened & { readonly request: IncomingMessage; readonly response: ServerResponse };
  #isOpened = false;

  constructor(request: IncomingMessage, response: ServerResponse) {
    const { method = "", url = "/", headers } = request;
    super({ method, url, headers });
    this.#pair = { request, response };
    response.on("close", () => this.close());
  }

  get authority(): string | undefined {
    return this.header("host");
  }

  get socket(): Socket {
    return this.#pair.request.socket;
  }

  get rawHeaders(): readonly string[] {
    return this.#pair.request.rawHeaders;
  }

  get body(): IncomingMessage {
    return this.#pair.request;
  }

  readTo(reader: BodyReader): void {
    const { request } = this.#pair;
    let isWhole = false;
    request.on("data", (part: Buffer) => reader.add(part));
    request.on("end", () => {
      isWhole = true;
      reader.finish();
    });
    request.on("close", () => isWhole || reader.fail());
  }

  get hasBody(): boolean {
    const length = this.header("content-length");
    return (length ?? "0") !== "0" || this.header("transfer-encoding") !== undefined;
  }

  get isGone(): boolean {
    return this.#pair.response.destroyed;
  }

  get isCutOff(): boolean {
    return false;
  }

  get headersSent(): boolean {
    return this.#pair.response.headersSent;
  }

  get status(): number {
    return this.#pair.response.statusCode;
  }

  protected get opened(): Opened | undefined {
    return this.#isOpened ? this.#pair : undefined;
  }

  open(): Opened {
    if (!this.#isOpened) {
      this.#isOpened = true;
      this.moveHead(this.#pair);
    }
    return this.#pair;
  }

  send(
    status: number,
    headers: Readonly<Record<string, string>>,
    body: string | Uint8Array | undefined,
  ): void {
    for (const name in headers) {
      this.setHeader(name, headers[name] ?? "");
    }
    this.#end(status, body);
  }

  reply(status: number, headers: readonly HeaderValue[], body: Uint8Array | undefined): void {
    const { head } = this;
    for (let index = 0; index < headers.length; index++) {
      head.push(headers[index] as HeaderValue);
    }
    this.#end(status, body);
  }

  #end(status: number, body: string | Uint8Array | undefined): void {
    const { response } = this.#pair;
    // Now, since a header may be refused.
    response.writeHead(status, this.head as string[]);
    endings.push({ response, body });
    if (endings.length === 1) {
      setImmediate(endAll);
    }
  }

  breakOff(): void {
    if (!this.#pair.response.writableEnded) {
      this.#pair.response.destroy();
    }
  }

  // Node does so itself where nothing of the body was read, up to the request's timeout: closing at once would make the
  // kernel reset the connection before the client has read the reply.
  discard(): void {
    const { request, response } = this.#pair;
    if (request.readableDidRead && !request.readableEnded) {
      discardBody(request, response);
    }
  }
}

/** A request over HTTP/2. */
export class Http2Arrival extends Arrival {
  readonly stream: Http2Stream;
  #duplex: Http2Duplex | undefined;
  #opened: Opened | undefined;

  constructor(stream: Http2Stream) {
    const { headers } = stream.head;
    super({ method: headers[":method"] ?? "", url: headers[":path"] ?? "/", headers });
    this.stream = stream;
    stream.onClosed = () => this.#onClosed();
  }

  get authority(): string | undefined {
    return this.header(":authority") ?? this.header("host");
  }

  get socket(): Socket {
    return this.stream.connection.socket;
  }

  get rawHeaders(): readonly string[] {
    return this.stream.head.fields;
  }

  get body(): Http2Duplex {
    this.#duplex ??= new Http2Duplex(this.stream);
    return this.#duplex;
  }

  readTo(reader: BodyReader): void {
    this.stream.readTo(reader);
  }

  get hasBody(): boolean {
    return this.stream.hasBody && this.header("content-length") !== "0";
  }

  get isGone(): boolean {
    return this.stream.isClosed;
  }

  get isCutOff(): boolean {
    return this.stream.isCutOff;
  }

  get headersSent(): boolean {
    return this.stream.status !== 0;
  }

  get status(): number {
    return this.stream.status;
  }

  protected get opened(): Opened | undefined {
    return this.#opened;
  }

  open(): Opened {
    if (this.#opened === undefined) {
      // It has what these classes ask of a stream.
      const duplex = this.body as unknown as ServerHttp2Stream;
      this.#opened = {
        request: new Http2ServerRequest(duplex, this.headers, {}, [...this.rawHeaders]),
        response: new Http2ServerResponse(duplex),
      };
      if (!this.isGone) {
        this.moveHead(this.#opened);
      }
    }
    return this.#opened;
  }

  send(
    status: number,
    headers: Readonly<Record<string, string>>,
    body: string | Uint8Array | undefined,
    trailers?: Trailers,
  ): void {
    if (this.isGone) {
      return;
    }
    if (this.#opened !== undefined) {
      const response = this.#opened.response as ServerResponse;
      response.writeHead(status, headers);
      response.end(body ?? "");
      return;
    }
    for (const name in headers) {
      this.setHeader(name, headers[name] ?? "");
    }
    this.stream.respond(status, this.head, {
      body: typeof body === "string" ? Buffer.from(body) : body,
      trailers,
    });
  }

  reply(status: number, headers: readonly HeaderValue[], body: Uint8Array | undefined): void {
    const { head } = this;
    for (let index = 0; index < headers.length; index++) {
      head.push(headers[index] as HeaderValue);
    }
    this.send(status, noHeaders, body);
  }

  breakOff(): void {
    if (!this.stream.isEnded) {
      this.stream.reset(errorCodes.internalError);
    }
  }

  // A reset would overtake the trailers, and bytes that nobody reads would count against the connection for ever.
  discard(): void {
    this.stream.discard();
  }

  #onClosed(): void {
    this.#duplex?.onStreamClosed();
    this.close();
  }
}

const noHeaders: Readonly<Record<string, string>> = {};
