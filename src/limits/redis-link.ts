import { createClient, ErrorReply } from "@redis/client";
import { type Loop, startLoop } from "../lib/loop.ts";

/** Thrown when Redis does not answer: at once while that is known, else after the deadline. */
export class RedisAwayError extends Error {
  override name = "RedisAwayError";
}

/** Send one command. */
export type Send = (args: readonly string[]) => Promise<unknown>;

/** One connection to Redis, made again whenever it is lost. */
export interface RedisLink {
  /** Throws RedisAwayError when there is no answer, and Redis's own error for NOSCRIPT. Nothing is sent twice. */
  readonly send: Send;
  /** Connect, and keep connecting. Resolves after the first attempt, whatever came of it. */
  start(): Promise<void>;
  close(): Promise<void>;
}

/** The longest that a command waits for its answer. */
const deadlineMsDefault = 250;
/** The longest that a new connection takes, with its handshakes. */
const connectMsMax = 1_000;
/** Between two attempts to connect, and two looks at a connection that is there. */
const lookMs = 500;
/** Commands that wait for their answers. */
const pendingMax = 10_000;

/**
 * Keep a connection to Redis. Whatever goes wrong on it ends it, and so does an answer that is late while no other
 * comes; then Redis counts as away until `probe` has passed on a new one.
 *
 * The client's own reconnecting is off: of a server that takes connections and never answers it takes no
 * notice, and it has no deadline for a command that is sent.
 */
export function createRedisLink({
  url,
  probe,
  onChange,
  deadlineMs = deadlineMsDefault,
}: {
  url: string;
  /** Throws unless the connection is good for what it is wanted for. */
  probe: (send: Send) => Promise<void>;
  /** Told when Redis went away, with the reason, and when it came back: undefined. */
  onChange: (away: Error | undefined) => void;
  deadlineMs?: number;
}): RedisLink {
  let current: Client | undefined;
  let isKnown = false;
  let loop: Loop | undefined;
  let first: Promise<void> | undefined;
  let isClosed = false;
  let answered = 0;

  function setCurrent(client: Client | undefined, reason?: Error) {
    const isChange = !isKnown || (client === undefined) !== (current === undefined);
    isKnown = true;
    current = client;
    if (isChange && !isClosed) {
      onChange(reason);
    }
  }

  function lose(client: Client, reason: Error) {
    if (client === current) {
      setCurrent(undefined, reason);
    }
    client.destroy();
  }

  async function connect() {
    const client = open(url);
    client.on("error", (error: Error) => lose(client, error));
    try {
      await within(client.connect(), connectMsMax);
      await probe((args) => within(client.sendCommand(args), deadlineMs));
      if (isClosed) {
        throw new RedisAwayError("Cannot use Redis: the connection was closed");
      }
      setCurrent(client);
    } catch (error) {
      client.destroy();
      setCurrent(undefined, toError(error));
    }
  }

  async function send(args: readonly string[]): Promise<unknown> {
    const client = current;
    if (client === undefined) {
      throw new RedisAwayError("Cannot ask Redis: it does not answer");
    }
    const answeredBefore = answered;
    try {
      const answer = await within(client.sendCommand(args), deadlineMs);
      answered += 1;
      return answer;
    } catch (error) {
      if (isMissingScript(error)) {
        throw error;
      }
      // Answers come in order: if one is late and those before it came meanwhile, there is much to do, no more.
      const isBusy = error instanceof RedisAwayError && answered > answeredBefore;
      if (!isBusy) {
        lose(client, toError(error));
      }
      throw new RedisAwayError("Cannot ask Redis: it does not answer", { cause: error });
    }
  }

  async function look() {
    if (current === undefined) {
      await connect();
    } else {
      // A failure has been noted by then.
      await probe(send).catch(() => {});
    }
    return false;
  }

  return {
    send,
    start() {
      first ??= look().then(() => {
        if (!isClosed) {
          loop = startLoop({ tick: look, intervalMs: lookMs, onError: () => {} });
        }
      });
      return first;
    },
    async close() {
      isClosed = true;
      await first;
      await loop?.stop();
      current?.destroy();
      current = undefined;
    },
  };
}

type Client = ReturnType<typeof open>;

function open(url: string) {
  return createClient({
    url,
    disableOfflineQueue: true,
    commandsQueueMaxLength: pendingMax,
    maintNotifications: "disabled",
    socket: { connectTimeout: connectMsMax, reconnectStrategy: false },
  });
}

/** Whether Redis does not know the script by its hash. */
export function isMissingScript(error: unknown): boolean {
  return error instanceof ErrorReply && error.message.startsWith("NOSCRIPT");
}

function toError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

/** The promise, or an error once the time is over. What becomes of it later is dropped. */
function within<T>(promise: Promise<T>, ms: number): Promise<T> {
  const { promise: settled, resolve, reject } = Promise.withResolvers<T>();
  const late = () => reject(new RedisAwayError(`Cannot wait for Redis: no answer in ${ms} ms`));
  // When it was this process that stood still, an answer may have come by now: it is read before setImmediate.
  const timer = setTimeout(() => setImmediate(late), ms);
  promise.then(resolve, reject).finally(() => clearTimeout(timer));
  return settled;
}
