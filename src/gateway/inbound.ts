import type { Readable, Writable } from "node:stream";
import type { Call } from "../rpc/call.ts";

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
  readonly headersSent: boolean;
  setHeader(name: string, value: string): void;
  /** Send a whole reply. */
  send(
    status: number,
    headers: Readonly<Record<string, string>>,
    body: string | Uint8Array | undefined,
  ): void;
  /** Begin a reply that is streamed. Names and values by turns. */
  begin(status: number, headers: readonly string[]): Writable;
  /** Break the reply off, so that nobody can take it for a whole one. */
  breakOff(): void;
  /** Have no more of the body once the reply has ended. */
  discard(): void;
  onceClosed(listener: () => void): void;
}

/** What the edge knows of a call that it hands to the gateway, and the steps that are left to do. */
export interface Passing {
  readonly call: Call;
  /** Authenticate and limit. Throws or rejects when the call is refused. */
  admit(): void | Promise<void>;
  /** Answer with an error. Once, and only before the reply has begun. */
  fail(thrown: unknown): void;
  /** The decoded values of the path's variables. */
  readonly bindings: readonly string[];
  /** Without the "?", as sent. */
  readonly query: string;
}
