import type { IncomingHttpHeaders } from "node:http";
import { freeBits } from "../catalog/price-rule.ts";
import type { Admission } from "./admission.ts";
import { Bytes } from "./bytes.ts";
import { usageOf } from "./event.ts";
import type { HeaderValue } from "./headers.ts";
import type { ReplySink } from "./inbound.ts";
import { readLocation } from "./location.ts";
import { createUnitReader, type UnitReader } from "./units.ts";
import type { Target } from "./upstream.ts";

/** When the parts of a call happened, in milliseconds of one monotonic clock. Zero: not yet. */
export interface Times {
  /** It was first handed to an upstream's pool. */
  dispatchedMs: number;
  /** The same, of its present try. */
  triedMs: number;
  /** The upstream's reply began; of a whole one: ended. */
  answeredMs: number;
  /** Its event was handed to the journal. */
  pushedMs: number;
}

/** Replies up to this are sent whole. Longer ones, and those without a length, are passed on as they come. */
const smallBytesMax = 64 * 1024;

/** Whom a streamed reply tells that the next part may be sent. */
export interface ReplyListener {
  onDrain(): void;
}

/** An upstream's reply on its way to the consumer. What would make it whole is kept back until complete(). */
export class Reply {
  readonly times: Times = { dispatchedMs: 0, triedMs: 0, answeredMs: 0, pushedMs: 0 };
  /** Zero: it has not begun. */
  status = 0;
  /** Bytes of the body so far. */
  received = 0;
  /** Whether it waits for the consumer to take what was sent. */
  isPaused = false;
  readonly #admission: Admission;
  readonly #listener: ReplyListener;
  #headers: IncomingHttpHeaders = {};
  /** The upstream that answers. Null: it is an echo. */
  #from: Target | null = null;
  /** Null: the upstream did not say. */
  #length: number | null = null;
  /** What is kept back. */
  readonly #kept = new Bytes();
  #reader: UnitReader | null = null;
  #sink: ReplySink | null = null;

  constructor(admission: Admission, listener: ReplyListener) {
    this.#admission = admission;
    this.#listener = listener;
  }

  /** A try begins. */
  tried(): void {
    const { times } = this;
    times.triedMs = this.#admission.deps.nowMs();
    times.dispatchedMs ||= times.triedMs;
  }

  /** Whether the consumer was sent a part of it. */
  get isBegun(): boolean {
    return this.#sink !== null;
  }

  /** Whether nobody can say at its beginning what it costs. */
  get #isPricedAtEnd(): boolean {
    return this.#reader !== null || this.#admission.month !== null;
  }

  /** Whether a part was sent to the consumer, and what was used may still come. */
  get isUnsaid(): boolean {
    const { rule } = this.#admission.price;
    const isCounted = rule !== null && rule.source !== null && "path" in rule.source;
    const isFree = isCounted && (rule.free & freeBits.consumerLeft) !== 0;
    return this.isBegun && isCounted && !isFree && this.units === null;
  }

  /** Take a part of the body whose consumer is gone. */
  overhear(chunk: Buffer): void {
    this.received += chunk.length;
    this.#reader?.data(chunk);
  }

  /** What the reply says was used. Null: nothing. */
  get units(): bigint | null {
    return this.#reader?.units ?? null;
  }

  /** Take the upstream's headers. Returns the length of the body; null: nobody knows. */
  start(status: number, headers: IncomingHttpHeaders, from: Target | null = null): number | null {
    const { inbound, price, deps } = this.#admission;
    this.status = status;
    this.#from = from;
    this.#headers = headers;
    this.times.answeredMs = deps.nowMs();
    const hasNoBody = inbound.method === "HEAD" || status === 204 || status === 304;
    this.#length = hasNoBody ? 0 : lengthOf(headers["content-length"]);
    const source = price.rule?.source ?? null;
    if (source !== null) {
      this.#reader = createUnitReader(source, {
        header: (name) => (Object.hasOwn(headers, name) ? firstOf(headers[name]) : undefined),
      });
    }
    return this.#length;
  }

  /** Take a reply that did not come from an upstream. */
  startWhole(status: number, headers: IncomingHttpHeaders, body: Buffer): void {
    const length = this.start(status, { ...headers, "content-length": String(body.length) });
    if (length !== 0) {
      this.#length = body.length;
      this.#reader?.data(body);
      this.#kept.add(body);
    }
  }

  /** Take a part of the body. Whether it was sent: else it is kept. */
  data(chunk: Buffer): boolean {
    this.received += chunk.length;
    this.#reader?.data(chunk);
    const length = this.#length;
    if (length !== null && (length <= smallBytesMax || this.received >= length)) {
      this.#kept.add(chunk);
      return false;
    }
    const sink = this.begin();
    if (!this.#admission.inbound.isGone) {
      this.isPaused = true;
      sink.write(chunk, (error) => this.#onWritten(chunk, error));
    }
    return true;
  }

  /** A part was handed to the system. To go on until the sink refuses more would keep several in memory. */
  #onWritten(chunk: Buffer, error: Error | null | undefined): void {
    // What could not be sent may still be in the hands of who was to send it.
    if (error !== null && error !== undefined) {
      return;
    }
    // A reader of units may hold on to it.
    if (this.#reader === null) {
      this.#admission.deps.parts.giveBack(chunk);
    }
    this.isPaused = false;
    this.#listener.onDrain();
  }

  /** Begin to send the reply as a stream. */
  begin(): ReplySink {
    if (this.#sink !== null) {
      return this.#sink;
    }
    const { inbound, price } = this.#admission;
    const ending = { status: this.status, outcome: "whole", units: null } as const;
    const sink = inbound.begin(
      this.status,
      replyHeaders(this.#admission, this.#headers, {
        status: this.status,
        charged: this.#isPricedAtEnd ? null : usageOf(price, 0n, ending).chargedNanos,
        times: this.times,
        from: this.#from,
      }),
    );
    this.#sink = sink;
    return sink;
  }

  /** Send what is left. */
  complete(chargedNanos: bigint): void {
    const { inbound } = this.#admission;
    const rest = this.#kept.length > 0 ? this.#kept.all : undefined;
    if (this.#sink === null) {
      const { status, times } = this;
      const told = { status, charged: chargedNanos, times, from: this.#from };
      inbound.reply(status, replyHeaders(this.#admission, this.#headers, told), rest);
    } else {
      if (this.#isPricedAtEnd) {
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

/** What of a reply its headers depend on, besides those of the upstream. */
interface Told {
  status: number;
  charged: bigint | null;
  times: Times;
  from: Target | null;
}

/** The upstream's headers, and what we say of the call. What it costs is null when that comes after the body. */
function replyHeaders(
  admission: Admission,
  headers: IncomingHttpHeaders,
  { status, charged, times, from }: Told,
): HeaderValue[] {
  const { deps, price, purse, key, reserveNanos } = admission;
  const reply = deps.filter.toConsumer(headers);
  if (status === 204) {
    dropLength(reply);
  }
  const location = firstOf(headers.location);
  if (location !== undefined && from !== null) {
    pushLocation(reply, location, admission, from);
  }
  reply.push("x-callora-price-version", String(price.pinned.version));
  if (charged === null) {
    reply.push("x-callora-reserved-nanos", String(reserveNanos));
  } else {
    reply.push("x-callora-charged-nanos", String(charged));
  }
  const remainingNanos = purse?.remainingNanos ?? null;
  if (remainingNanos !== null) {
    reply.push("x-callora-remaining-nanos", String(remainingNanos));
  }
  if (key.mode === "test") {
    reply.push("x-callora-mode", "test");
  }
  const theirs = headers["server-timing"];
  const ours = serverTiming(admission, times);
  reply.push("server-timing", theirs === undefined ? ours : `${ours}, ${String(theirs)}`);
  return reply;
}

/** Within the API a client may follow. Where else it leads is told, but no client goes there by itself, with its key. */
function pushLocation(
  reply: HeaderValue[],
  location: string,
  { passing, path }: Admission,
  { origin, basePath }: Target,
): void {
  const baseUrl = origin + basePath;
  const requestUrl = `${baseUrl}${path}?${passing.query}`;
  const prefix = `/v1/call/${passing.bindings[0] ?? ""}`;
  const led = readLocation(location, { requestUrl, baseUrl, prefix });
  if (led !== null) {
    reply.push(led.isInside ? "location" : "x-callora-location", led.url);
  }
}

function dropLength(reply: HeaderValue[]): void {
  for (let index = 0; index < reply.length; index += 2) {
    if (reply[index] === "content-length") {
      reply.splice(index, 2);
      return;
    }
  }
}

/**
 * Where the time went. All tries are the upstream's. What waits for the event to be durable is apart: it is neither's
 * own.
 */
export function serverTiming({ deps, startedMs }: Admission, times: Readonly<Times>): string {
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
