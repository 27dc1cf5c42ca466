import type { IncomingHttpHeaders } from "node:http";
import type { Admission } from "./admission.ts";
import { usageOf } from "./event.ts";
import type { HeaderValue } from "./headers.ts";
import type { ReplySink } from "./inbound.ts";
import { createUnitReader, type UnitReader } from "./units.ts";

/** When the parts of a call happened, in milliseconds of one monotonic clock. Zero: not yet. */
export interface Times {
  /** It was handed to the upstream's pool. */
  dispatchedMs: number;
  /** The upstream's reply began; of a whole one: ended. */
  answeredMs: number;
  /** Its event was handed to the journal. */
  pushedMs: number;
}

/** Replies up to this are sent whole. Longer ones, and those without a length, are passed on as they come. */
const smallBytesMax = 64 * 1024;

/** Whom a streamed reply tells that more may be sent. */
export interface ReplyListener {
  onDrain(): void;
}

/** An upstream's reply on its way to the consumer. What would make it whole is kept back until complete(). */
export class Reply {
  readonly times: Times = { dispatchedMs: 0, answeredMs: 0, pushedMs: 0 };
  /** Zero: it has not begun. */
  status = 0;
  /** Bytes of the body so far. */
  received = 0;
  readonly #admission: Admission;
  readonly #listener: ReplyListener;
  #headers: IncomingHttpHeaders = {};
  /** Null: the upstream did not say. */
  #length: number | null = null;
  #chunks: Buffer[] = [];
  #reader: UnitReader | null = null;
  #sink: ReplySink | null = null;

  constructor(admission: Admission, listener: ReplyListener) {
    this.#admission = admission;
    this.#listener = listener;
  }

  /** Whether the consumer was sent a part of it. */
  get isBegun(): boolean {
    return this.#sink !== null;
  }

  /** What the reply says was used. Null: nothing. */
  get units(): bigint | null {
    return this.#reader?.units ?? null;
  }

  /** Take the upstream's headers. Returns the length of the body; null: nobody knows. */
  start(status: number, headers: IncomingHttpHeaders): number | null {
    const { inbound, price, deps } = this.#admission;
    this.status = status;
    this.#headers = headers;
    this.times.answeredMs = deps.nowMs();
    const hasNoBody = inbound.method === "HEAD" || status === 204 || status === 304;
    this.#length = hasNoBody ? 0 : lengthOf(headers["content-length"]);
    const source = price.rule?.source ?? null;
    if (source !== null) {
      this.#reader = createUnitReader(source, { header: (name) => firstOf(headers[name]) });
    }
    return this.#length;
  }

  /** Take a reply that did not come from an upstream. */
  startWhole(status: number, headers: IncomingHttpHeaders, body: Buffer): void {
    const length = this.start(status, { ...headers, "content-length": String(body.length) });
    if (length !== 0) {
      this.#length = body.length;
      this.#reader?.data(body);
      this.#chunks.push(body);
    }
  }

  /** Take a part of the body. It is kept, or sent; "pause": the consumer takes no more now. */
  data(chunk: Buffer): "pause" | undefined {
    this.received += chunk.length;
    this.#reader?.data(chunk);
    const length = this.#length;
    if (length !== null && (length <= smallBytesMax || this.received >= length)) {
      this.#chunks.push(chunk);
      return;
    }
    const sink = this.begin();
    return !this.#admission.inbound.isGone && !sink.write(chunk) ? "pause" : undefined;
  }

  /** Begin to send the reply as a stream. */
  begin(): ReplySink {
    if (this.#sink !== null) {
      return this.#sink;
    }
    const { inbound, price, unitsBefore } = this.#admission;
    const ending = { status: this.status, outcome: "whole", units: null } as const;
    const sink = inbound.begin(
      this.status,
      replyHeaders(this.#admission, this.#headers, {
        status: this.status,
        charged: this.#reader === null ? usageOf(price, unitsBefore, ending).chargedNanos : null,
        times: this.times,
      }),
    );
    sink.on("drain", () => this.#listener.onDrain());
    this.#sink = sink;
    return sink;
  }

  /** Send what is left. */
  complete(chargedNanos: bigint): void {
    const { inbound } = this.#admission;
    const chunks = this.#chunks;
    const rest = chunks.length > 1 ? Buffer.concat(chunks) : chunks[0];
    if (this.#sink === null) {
      const { status, times } = this;
      const told = { status, charged: chargedNanos, times };
      inbound.reply(status, replyHeaders(this.#admission, this.#headers, told), rest);
    } else {
      if (this.#reader !== null) {
        this.#sink.addTrailers({ "x-callora-charged-nanos": String(chargedNanos) });
      }
      this.#sink.end(rest);
    }
    if (inbound.hasBody) {
      inbound.discard();
    }
  }
}

function lengthOf(header: string | string[] | undefined): number | null {
  return typeof header === "string" && /^\d{1,15}$/.test(header) ? Number(header) : null;
}

function firstOf(value: string | string[] | undefined): string | undefined {
  return typeof value === "object" ? value[0] : value;
}

/** The upstream's headers, and what we say of the call. What it costs is null when that comes after the body. */
function replyHeaders(
  admission: Admission,
  headers: IncomingHttpHeaders,
  { status, charged, times }: { status: number; charged: bigint | null; times: Times },
): HeaderValue[] {
  const { deps, price, purse, key, reserveNanos } = admission;
  const reply = deps.filter.toConsumer(headers);
  if (status === 204) {
    dropLength(reply);
  }
  reply.push("x-callora-price-version", String(price.pinned.version));
  if (charged === null) {
    reply.push("x-callora-reserved-nanos", String(reserveNanos));
  } else {
    reply.push("x-callora-charged-nanos", String(charged));
  }
  if (purse !== null) {
    reply.push("x-callora-remaining-nanos", String(purse.remainingNanos));
  }
  if (key.mode === "test") {
    reply.push("x-callora-mode", "test");
  }
  const theirs = headers["server-timing"];
  const ours = serverTiming(admission, times);
  reply.push("server-timing", theirs === undefined ? ours : `${ours}, ${String(theirs)}`);
  return reply;
}

function dropLength(reply: HeaderValue[]): void {
  for (let index = 0; index < reply.length; index += 2) {
    if (reply[index] === "content-length") {
      reply.splice(index, 2);
      return;
    }
  }
}

/** Where the time went. What waits for the event to be durable is apart: it is neither's own. */
function serverTiming({ deps, startedMs }: Admission, times: Times): string {
  const { dispatchedMs, answeredMs, pushedMs } = times;
  const now = deps.nowMs();
  const durable = pushedMs === 0 ? 0 : now - pushedMs;
  const upstream = answeredMs - dispatchedMs;
  const own = now - startedMs - upstream - durable;
  const parts = `gateway;dur=${rounded(own)}, upstream;dur=${rounded(upstream)}`;
  return pushedMs === 0 ? parts : `${parts}, durable;dur=${rounded(durable)}`;
}

/** To two places. Written from whole numbers: a fraction takes several times as long. */
function rounded(ms: number): string {
  const hundredths = Math.round(ms * 100);
  if (hundredths < 0) {
    return "0";
  }
  const rest = hundredths % 100;
  return `${(hundredths - rest) / 100}.${rest < 10 ? "0" : ""}${rest}`;
}
