import { once } from "node:events";
import { connect, type Socket } from "node:net";

/** What is sent: the head of every request, and the messages in turn. */
export interface Calls {
  port: number;
  path: string;
  headers: readonly (readonly [name: string, value: string])[];
  /** gRPC messages with their five bytes in front. */
  messages: readonly Buffer[];
}

/** What came of a run. */
export interface Outcome {
  calls: number;
  seconds: number;
  /** Answers whose first field is true. */
  valid: number;
  /** Answers without a message: errors. */
  failed: number;
  /** In milliseconds, from the moment when each was due. */
  p50Ms: number;
  p99Ms: number;
}

/** How much is sent: as fast as answers come, or at a rate. */
export interface Extent {
  /** At most so many calls. */
  calls: number;
  /** At most so long. */
  seconds: number;
  /** Calls a second. Zero: as soon as there is an answer. */
  rate: number;
  /** Calls at once, on each of four connections. */
  streams: number;
}

const connections = 4;

/**
 * Send gRPC calls over bare sockets, without an HTTP/2 library: what loads the server must cost little beside it, and
 * each call has another message, which h2load cannot.
 */
export async function runCalls(calls: Calls, extent: Extent): Promise<Outcome> {
  const run = new Run(calls, extent);
  const sockets = await Promise.all(
    Array.from({ length: connections }, async () => {
      const socket = connect(calls.port, "127.0.0.1").setNoDelay();
      await once(socket, "connect");
      return new Connection(socket, run);
    }),
  );
  const outcome = await run.finish(sockets);
  for (const connection of sockets) {
    connection.close();
  }
  return outcome;
}

class Run {
  readonly #requests: readonly Buffer[];
  readonly #dataAt: number;
  readonly #extent: Extent;
  readonly #latencies: number[] = [];
  #begun = 0;
  #sent = 0;
  #done = 0;
  #valid = 0;
  #failed = 0;

  constructor(calls: Calls, extent: Extent) {
    const head = headerBlock(calls);
    const headers = frame({ type: 1, flags: endHeaders, stream: 0 }, head);
    // Made before the first is sent: what is dropped on the way has to be collected, and all calls wait meanwhile.
    this.#requests = calls.messages.map((message) =>
      Buffer.concat([headers, frame({ type: 0, flags: endStream, stream: 0 }, message)]),
    );
    this.#dataAt = headers.length;
    this.#extent = extent;
  }

  /** Calls at once on a connection. */
  get streams(): number {
    return this.#extent.streams;
  }

  /** When the next call was due. Undefined: none is. */
  next(nowMs: number): number | undefined {
    const { calls, seconds, rate } = this.#extent;
    if (this.#sent >= calls || nowMs - this.#begun >= seconds * 1000) {
      return undefined;
    }
    if (rate === 0) {
      return nowMs;
    }
    const due = this.#begun + (this.#sent * 1000) / rate;
    return due <= nowMs ? due : undefined;
  }

  /** The frames of the next request, on a stream. */
  request(stream: number): Buffer {
    const request = this.#requests[this.#sent % this.#requests.length];
    if (request === undefined) {
      throw new Error("Cannot measure: there is nothing to send");
    }
    this.#sent += 1;
    request.writeUInt32BE(stream, streamAt);
    request.writeUInt32BE(stream, this.#dataAt + streamAt);
    return request;
  }

  answered(dueMs: number, answer: { isThere: boolean; isValid: boolean }): void {
    this.#done += 1;
    this.#valid += Number(answer.isValid);
    this.#failed += Number(!answer.isThere);
    this.#latencies.push(performance.now() - dueMs);
  }

  finish(sockets: readonly Connection[]): Promise<Outcome> {
    this.#begun = performance.now();
    return new Promise((resolve, reject) => {
      const turn = () => {
        const nowMs = performance.now();
        for (const connection of sockets) {
          connection.fill();
        }
        const isOver =
          this.#sent >= this.#extent.calls || nowMs - this.#begun >= this.#extent.seconds * 1000;
        if (isOver && this.#done === this.#sent) {
          resolve(this.#outcome(nowMs));
        } else if (nowMs - this.#begun > (this.#extent.seconds + 30) * 1000) {
          reject(new Error(`Cannot measure: ${this.#sent - this.#done} answers are missing`));
        } else if (this.#extent.rate === 0) {
          // Each answer makes room for the next call: whoever only waits leaves the processor to others.
          setTimeout(turn, 10);
        } else {
          setImmediate(turn);
        }
      };
      turn();
    });
  }

  #outcome(nowMs: number): Outcome {
    const sorted = Float64Array.from(this.#latencies).sort();
    const at = (part: number) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
    return {
      calls: this.#done,
      seconds: (nowMs - this.#begun) / 1000,
      valid: this.#valid,
      failed: this.#failed,
      p50Ms: at(0.5),
      p99Ms: at(0.99),
    };
  }
}

const preface = Buffer.concat([
  Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  // The server is to compress no headers by a table that would have to be kept, and may send without end.
  frame({ type: 4, flags: 0, stream: 0 }, Buffer.from("00010000000000047fffffff", "hex")),
  frame({ type: 8, flags: 0, stream: 0 }, Buffer.from("7fff0000", "hex")),
]);

/** Of a frame's head. */
const streamAt = 5;

const endStream = 1;
const endHeaders = 4;

class Connection {
  readonly #socket: Socket;
  readonly #run: Run;
  readonly #dueMs = new Map<number, number>();
  readonly #answers = new Map<number, boolean>();
  #rest: Buffer = Buffer.alloc(0);
  #stream = 1;

  constructor(socket: Socket, run: Run) {
    this.#socket = socket;
    this.#run = run;
    socket.write(preface);
    socket.on("data", (data: Buffer) => this.#read(data));
  }

  /** Send what is due and has room. */
  fill(): void {
    const parts: Buffer[] = [];
    while (this.#dueMs.size < this.#run.streams) {
      const dueMs = this.#run.next(performance.now());
      if (dueMs === undefined) {
        break;
      }
      const stream = this.#stream;
      this.#stream += 2;
      this.#dueMs.set(stream, dueMs);
      parts.push(this.#run.request(stream));
    }
    if (parts.length > 0) {
      this.#socket.write(parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts));
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(data: Buffer): void {
    const all = this.#rest.length === 0 ? data : Buffer.concat([this.#rest, data]);
    let at = 0;
    while (at + 9 <= all.length) {
      const length = all.readUIntBE(at, 3);
      if (at + 9 + length > all.length) {
        break;
      }
      const flags = all[at + 4] ?? 0;
      const stream = all.readUInt32BE(at + streamAt);
      this.#frame({ type: all[at + 3] ?? 0, flags, stream }, all.subarray(at + 9, at + 9 + length));
      at += 9 + length;
    }
    this.#rest = all.subarray(at);
    this.fill();
  }

  #frame({ type, flags, stream }: Head, body: Buffer): void {
    if (type === 0) {
      this.#answers.set(stream, body[5] === 8 && body[6] === 1);
    } else if (type === 4 && (flags & 1) === 0) {
      this.#socket.write(frame({ type: 4, flags: 1, stream: 0 }, Buffer.alloc(0)));
    } else if (type === 6 && (flags & 1) === 0) {
      this.#socket.write(frame({ type: 6, flags: 1, stream: 0 }, body));
    } else if (type === 3 || type === 7) {
      throw new Error(`Cannot measure: the server sent ${type === 3 ? "RST_STREAM" : "GOAWAY"}`);
    }
    if ((type === 0 || type === 1) && (flags & endStream) !== 0) {
      const isValid = this.#answers.get(stream);
      const dueMs = this.#dueMs.get(stream) ?? 0;
      this.#answers.delete(stream);
      this.#dueMs.delete(stream);
      this.#run.answered(dueMs, { isThere: isValid !== undefined, isValid: isValid === true });
    }
  }
}

interface Head {
  type: number;
  flags: number;
  stream: number;
}

function frame({ type, flags, stream }: Head, body: Buffer): Buffer {
  const whole = Buffer.alloc(9 + body.length);
  whole.writeUIntBE(body.length, 0, 3);
  whole[3] = type;
  whole[4] = flags;
  whole.writeUInt32BE(stream, 5);
  body.copy(whole, 9);
  return whole;
}

/** The headers as HPACK literals that enter no table. */
function headerBlock({ port, path, headers }: Calls): Buffer {
  const post = 0x83;
  const http = 0x86;
  const pathName = 0x04;
  const authorityName = 0x01;
  return Buffer.concat([
    Buffer.from([post, http, pathName]),
    literal(path),
    Buffer.from([authorityName]),
    literal(`127.0.0.1:${port}`),
    ...headers.flatMap(([name, value]) => [Buffer.from([0]), literal(name), literal(value)]),
  ]);
}

function literal(text: string): Buffer {
  const bytes = Buffer.from(text);
  if (bytes.length >= 127) {
    throw new Error(`Cannot send "${text}": it is too long`);
  }
  return Buffer.concat([Buffer.from([bytes.length]), bytes]);
}
