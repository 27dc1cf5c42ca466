import { Code, ConnectError } from "@connectrpc/connect";
import type { WebSocket } from "ws";

/** Times and sizes of WebSockets. */
export interface SocketLimits {
  pingIntervalMs: number;
  /** For the answer to a ping, and for what is buffered to be taken. */
  pongTimeoutMs: number;
  /** Between two looks at whether the credential still counts. */
  recheckIntervalMs: number;
  /** Looks in a row that may fail for a reason of ours before the connection is closed. */
  recheckFailuresMax: number;
  /** Bytes that wait for a client before nothing more is fetched for it. */
  bufferedBytesMax: number;
  connectionsPerCallerMax: number;
}

/** The codes that a WebSocket is closed with. */
export const closeCodes = {
  done: 1000,
  serverStops: 1001,
  refused: 1008,
  failed: 1011,
  tryLater: 1013,
  credentialLost: 4401,
} as const;

/** One open WebSocket, over which a stream is sent. */
export interface SocketSession {
  /** Aborted once the connection ends, whoever ends it. */
  readonly signal: AbortSignal;
  /** Send texts until there are no more. Never rejects: an error is told, and closes the connection. */
  send(texts: AsyncIterable<string>, errorText: (error: ConnectError) => string): Promise<void>;
  close(code: number, reason: string): void;
}

/** Look after a WebSocket: its pings, its credential and its end. */
export function createSession(
  socket: WebSocket,
  {
    limits,
    recheck,
    toConnectError,
  }: {
    limits: SocketLimits;
    /** Rejects when the credential does not count any more. */
    recheck: () => Promise<void>;
    toConnectError: (error: unknown) => ConnectError;
  },
): SocketSession {
  const ended = new AbortController();
  let giveUp: NodeJS.Timeout | undefined;
  function close(code: number, reason: string): void {
    if (socket.readyState === socket.OPEN) {
      socket.close(code, reason);
      stopRecheck();
      // A client that takes nothing would never answer.
      giveUp ??= setTimeout(() => socket.terminate(), limits.pongTimeoutMs);
      ended.abort(new ConnectError(reason, Code.Canceled));
    }
  }
  const stopPing = startPing(socket, limits);
  const stopRecheck = startRecheck({ limits, recheck, toConnectError, close });
  socket.on("error", () => socket.terminate());
  socket.on("message", () => close(closeCodes.refused, "this stream takes no messages"));
  socket.once("close", () => {
    stopPing();
    stopRecheck();
    clearTimeout(giveUp);
    ended.abort(new ConnectError("the client left", Code.Canceled));
  });

  return {
    signal: ended.signal,
    close,
    async send(texts, errorText) {
      try {
        for await (const text of texts) {
          if (socket.readyState !== socket.OPEN) {
            return;
          }
          socket.send(text);
          if (!(await isTaken(socket, limits))) {
            close(closeCodes.tryLater, "the client is too slow");
            return;
          }
        }
        close(closeCodes.done, "");
      } catch (thrown) {
        const error = toConnectError(thrown);
        if (socket.readyState === socket.OPEN) {
          socket.send(errorText(error));
        }
        close(codeOf(error), Code[error.code]);
      }
    },
  };
}

function codeOf({ code }: ConnectError): number {
  return byCode[code] ?? closeCodes.failed;
}

const byCode: Readonly<Partial<Record<Code, number>>> = {
  [Code.InvalidArgument]: closeCodes.refused,
  [Code.NotFound]: closeCodes.refused,
  [Code.AlreadyExists]: closeCodes.refused,
  [Code.PermissionDenied]: closeCodes.refused,
  [Code.FailedPrecondition]: closeCodes.refused,
  [Code.OutOfRange]: closeCodes.refused,
  [Code.Unimplemented]: closeCodes.refused,
  [Code.Unauthenticated]: closeCodes.credentialLost,
  [Code.ResourceExhausted]: closeCodes.tryLater,
  [Code.Unavailable]: closeCodes.tryLater,
  [Code.Aborted]: closeCodes.tryLater,
};

function startPing(socket: WebSocket, { pingIntervalMs, pongTimeoutMs }: SocketLimits): () => void {
  let timeout: NodeJS.Timeout | undefined;
  const interval = setInterval(() => {
    if (socket.readyState === socket.OPEN) {
      socket.ping();
      timeout ??= setTimeout(() => socket.terminate(), pongTimeoutMs);
    }
  }, pingIntervalMs);
  socket.on("pong", () => {
    clearTimeout(timeout);
    timeout = undefined;
  });
  return () => {
    clearInterval(interval);
    clearTimeout(timeout);
  };
}

function startRecheck({
  limits,
  recheck,
  toConnectError,
  close,
}: {
  limits: SocketLimits;
  recheck: () => Promise<void>;
  toConnectError: (error: unknown) => ConnectError;
  close: (code: number, reason: string) => void;
}): () => void {
  let failures = 0;
  let isRunning = false;
  const look = async () => {
    try {
      await recheck();
      failures = 0;
    } catch (error) {
      const { code } = toConnectError(error);
      if (code === Code.Unauthenticated || code === Code.PermissionDenied) {
        close(closeCodes.credentialLost, "the credential does not count any more");
      } else if (code !== Code.ResourceExhausted && ++failures > limits.recheckFailuresMax) {
        close(closeCodes.failed, "cannot check the credential");
      }
    }
    isRunning = false;
  };
  const interval = setInterval(() => {
    if (!isRunning) {
      isRunning = true;
      void look();
    }
  }, limits.recheckIntervalMs);
  return () => clearInterval(interval);
}

/** Wait until little enough is buffered. False if the client does not take it in time. */
async function isTaken(
  socket: WebSocket,
  { bufferedBytesMax, pongTimeoutMs }: SocketLimits,
): Promise<boolean> {
  if (socket.bufferedAmount <= bufferedBytesMax) {
    return true;
  }
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), pongTimeoutMs);
  // What is sent in between is called back when all before it has been taken.
  const onClose = () => resolve(true);
  socket.once("close", onClose);
  socket.ping("", undefined, () => resolve(true));
  const taken = await promise;
  clearTimeout(timer);
  socket.off("close", onClose);
  return taken;
}
