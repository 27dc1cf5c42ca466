import { randomUUID } from "node:crypto";
import { Socket } from "node:net";
import pg from "pg";
import { inTime } from "../lib/in-time.ts";
import { withRole } from "./pool.ts";

/** The one connection that hears notifications. What is late or fails on it ends it. */
export interface Connection {
  query(text: string, values: readonly unknown[]): Promise<Record<string, unknown>[]>;
}

/** How to listen. */
export interface ListenerOptions {
  /** Not through a pooler that gives each transaction another session: LISTEN is lost there. */
  url: string;
  channel: string;
  /** The longest that the server may take for anything. A connection on which it takes longer counts as dead. */
  replyMsMax: number;
  /** Told of each notification, in the order of the commits, before the reply to any later statement. */
  onNotification: (payload: string) => void;
  /** Runs as long as the connection does; the signal says when it has to end. */
  serve: (connection: Connection, signal: AbortSignal) => Promise<void>;
  /** Told at once when a connection is no longer good. */
  onDown: () => void;
  /** Told why there is no connection. It is tried again. */
  onError: (error: unknown) => void;
}

/** A connection that is made again whenever it breaks. */
export interface Listener {
  stop(): Promise<void>;
}

const pauseMsMin = 20;
const pauseMsMax = 1_000;

/** Listen, until stopped. */
export function startListener(options: ListenerOptions): Listener {
  const stopping = new AbortController();
  let failures = 0;

  async function run() {
    while (!stopping.signal.aborted) {
      const begun = performance.now();
      try {
        await serveOnce(options, stopping.signal);
      } catch (error) {
        options.onError(error);
      }
      failures = performance.now() - begun > pauseMsMax * 2 ? 0 : Math.min(failures + 1, 16);
      await pause(Math.min(pauseMsMin * 2 ** failures, pauseMsMax), stopping.signal);
    }
  }

  const running = run();
  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}

async function serveOnce(options: ListenerOptions, stop: AbortSignal): Promise<void> {
  const ended = new AbortController();
  const link = createLink(options, () => {
    options.onDown();
    ended.abort();
  });
  try {
    await link.open();
    await options.serve(link.connection, AbortSignal.any([stop, ended.signal]));
    link.throwIfFailed();
  } finally {
    link.close();
  }
}

function createLink(
  { url, channel, replyMsMax, onNotification }: ListenerOptions,
  onEnd: () => void,
) {
  // A client that ends politely waits for the other side, which may be gone without a word.
  const socket = new Socket();
  const client = new pg.Client({
    connectionString: withRole(url, "callora_worker"),
    application_name: "callora listener",
    keepAlive: true,
    keepAliveInitialDelayMillis: 1_000,
    stream: () => socket,
  });
  const proof = randomUUID();
  const proven = Promise.withResolvers<void>();
  let isOpen = true;
  let failure: unknown;
  const link = {
    connection: { query },
    async open() {
      await inTime(client.connect(), { ms: replyMsMax, what: "a connection" });
      await query(`listen ${client.escapeIdentifier(channel)}`, []);
      // A pooler takes LISTEN and says nothing, and no notification ever comes.
      await query("select pg_notify($1, $2)", [channel, proof]);
      await inTime(proven.promise, { ms: replyMsMax, what: "its own notification" });
    },
    throwIfFailed() {
      if (failure !== undefined) {
        throw failure;
      }
    },
    close() {
      if (isOpen) {
        isOpen = false;
        socket.destroy();
        onEnd();
      }
    },
  };

  function fail(error: unknown) {
    failure ??= error;
    link.close();
  }

  async function query(text: string, values: readonly unknown[]) {
    if (!isOpen) {
      throw failure ?? new Error("Cannot send a statement: the connection is closed");
    }
    try {
      const result = client.query<Record<string, unknown>>(text, [...values]);
      const { rows } = await inTime(result, { ms: replyMsMax, what: "a reply of the database" });
      return rows;
    } catch (error) {
      fail(error);
      throw error;
    }
  }

  client.on("error", fail);
  client.on("end", () => fail(new Error("Cannot listen: the connection ended")));
  client.on("notification", ({ payload = "" }) => {
    if (payload === proof) {
      proven.resolve();
    } else {
      onNotification(payload);
    }
  });
  return link;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
    if (signal.aborted) {
      done();
    }
  });
}
