import type { Readable, Writable } from "node:stream";
import type { Call } from "../rpc/call.ts";
import type { HeaderValue } from "./headers.ts";

/** A reply that is streamed. What is written before the headers were sent goes with them. */
export type ReplySink = Writable & {
  flushHeaders(): void;
  addTrailers(trailers: Readonly<Record<string, string>>): void;
};

/** A consumer's request and its reply, as far as the gateway needs them. The edge has it. */
export interface Inbound {
  readonly method: string;
  /** The request target, as sent. */
  readonly url: string;
  /** Names and values by turns, as sent. */
  readonly rawHeaders: readonly string[];
  header(name: string): string | undefined;
  /** The host that the client named. */
  readonly authority: string | undefined;
  readonly body: Readable;
  readonly hasBody: boolean;
  /** Whether nobody can read the reply any more. */
  readonly isGone: boolean;
  /** Whether the client broke the request off, which may look like an ordinary end of the body. */
  readonly isCutOff: boolean;
  readonly headersSent: boolean;
  /** Told once the reply has ended or the client has left. */
  closing: { onClosed(): void } | undefined;
  setHeader(name: string, value: string): void;
  /** Send a whole reply. Names, in lower case, and values by turns. */
  reply(status: number, headers: readonly HeaderValue[], body: Uint8Array | undefined): void;
  /** Begin a reply that is streamed. */
  begin(status: number, headers: readonly HeaderValue[]): ReplySink;
  /** Break the reply off, so that nobody can take it for a whole one. */
  breakOff(): void;
  /** Have no more of the body once the reply has ended. */
  discard(): void;
}

/** What the edge knows of a call that it hands to the gateway, and the steps that are left to do. */
export interface Passing {
  readonly call: Call;
  /** Authenticate and limit. Throws or rejects when the call is refused. */
  admit(): void | Promise<void>;
  /** Answer with an error, or break off the reply that has begun. */
  fail(thrown: unknown): void;
  /** The decoded values of the path's variables. */
  readonly bindings: readonly string[];
  /** Without the "?", as sent. */
  readonly query: string;
}
