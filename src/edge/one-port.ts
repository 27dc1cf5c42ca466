import { createServer as createHttp1Server } from "node:http";
import { createServer as createHttp2Server, type ServerHttp2Session } from "node:http2";
import {
  type AddressInfo,
  createServer as createNetServer,
  type Server,
  type Socket,
} from "node:net";
import type { HttpRequest, HttpResponse } from "./http-message.ts";

/** HTTP/1.1 and cleartext HTTP/2 on one port. */
export interface OnePort {
  /** Start to accept. Rejects with the system's error, for example one of code EADDRINUSE. */
  listen(address: { host: string; port: number }): Promise<AddressInfo>;
  /** Accept no more, let running requests finish, and after the grace time break them off. */
  close(options: { graceMs: number }): Promise<void>;
}

/** The limits of a port. All have defaults. */
export interface PortLimits {
  /** For a new connection to show which protocol it speaks. */
  firstByteTimeoutMs: number;
  /** For the headers of an HTTP/1.1 request. */
  headersTimeoutMs: number;
  /** For a whole HTTP/1.1 request to arrive. The reply may take longer. */
  requestTimeoutMs: number;
  /** For the next HTTP/1.1 request of a connection. */
  keepAliveTimeoutMs: number;
  /** For an HTTP/2 connection without streams. */
  sessionIdleTimeoutMs: number;
  /** How often the HTTP/1.1 timeouts are looked at. */
  checkIntervalMs: number;
  connectionsMax: number;
}

const defaultLimits: PortLimits = {
  firstByteTimeoutMs: 10_000,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 60_000,
  keepAliveTimeoutMs: 75_000,
  sessionIdleTimeoutMs: 60_000,
  checkIntervalMs: 5_000,
  connectionsMax: 10_000,
};

const headerBytesMax = 16 * 1024;
const requestsPerSocketMax = 10_000;
const streamsPerSessionMax = 100;
const windowBytes = 1024 * 1024;
const tcpKeepAliveMs = 60_000;

/** What a port knows of its connections. */
interface State {
  closing: boolean;
  readonly sockets: Set<Socket>;
  /** Those of the sockets whose protocol is not known yet. */
  readonly undecided: Set<Socket>;
  /** Each HTTP/2 session with the number of its open streams. */
  readonly sessions: Map<ServerHttp2Session, number>;
  /** The replies that have not ended. */
  readonly running: Set<HttpResponse>;
}

/** Open a port that hands every request, whichever HTTP version carries it, to one listener. */
export function createOnePort({
  onRequest,
  limits: overrides = {},
}: {
  onRequest: (request: HttpRequest, response: HttpResponse) => void;
  limits?: Partial<PortLimits>;
}): OnePort {
  const limits = { ...defaultLimits, ...overrides };
  const state: State = {
    closing: false,
    sockets: new Set(),
    undecided: new Set(),
    sessions: new Map(),
    running: new Set(),
  };
  const accept = (request: HttpRequest, response: HttpResponse) => {
    request.on("error", ignore);
    response.on("error", ignore);
    state.running.add(response);
    response.once("close", () => {
      state.running.delete(response);
      if (state.closing) {
        http1.closeIdleConnections();
      }
    });
    if (state.closing) {
      announceClose(response);
    }
    onRequest(request, response);
  };
  const http1 = createHttp1(limits, accept);
  const http2 = createHttp2(accept);
  http2.on("session", (session) => watchSession(state, session, limits.sessionIdleTimeoutMs));
  const server = createNetServer(
    { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: tcpKeepAliveMs },
    (socket) => {
      watchSocket(state, socket);
      sniff(socket, limits.firstByteTimeoutMs, (isHttp2) => {
        state.undecided.delete(socket);
        // A session that its client has left must not linger.
        socket.allowHalfOpen = !isHttp2;
        (isHttp2 ? http2 : http1).emit("connection", socket);
      });
    },
  );
  server.maxConnections = limits.connectionsMax;

  return {
    async listen({ host, port }) {
      const address = await listen(server, { host, port });
      // An http.Server that never listens checks no timeout unless it believes that it does.
      http1.emit("listening");
      return address;
    },
    async close({ graceMs }) {
      state.closing = true;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      http1.close();
      state.running.forEach(announceClose);
      http1.closeIdleConnections();
      destroyAll(state.undecided);
      for (const [session, streams] of state.sessions) {
        leave(session, streams);
      }
      const timer = setTimeout(() => destroyAll(state.sockets), graceMs);
      await closed;
      clearTimeout(timer);
    },
  };
}

function listen(server: Server, address: { host: string; port: number }): Promise<AddressInfo> {
  const { promise, resolve, reject } = Promise.withResolvers<AddressInfo>();
  server.once("error", reject);
  server.listen(address, () => {
    server.off("error", reject);
    server.on("error", ignore);
    resolve(server.address() as AddressInfo);
  });
  return promise;
}

function watchSocket({ sockets, undecided }: State, socket: Socket): void {
  sockets.add(socket);
  undecided.add(socket);
  socket.once("close", () => {
    sockets.delete(socket);
    undecided.delete(socket);
  });
}

/** Count a session's open streams, and end it when there are none and there shall be none. */
function watchSession(state: State, session: ServerHttp2Session, idleTimeoutMs: number): void {
  const { sessions } = state;
  const count = (change: number) => {
    const streams = (sessions.get(session) ?? 0) + change;
    sessions.set(session, streams);
    if (streams === 0 && state.closing) {
      session.close();
    }
  };
  sessions.set(session, 0);
  session.once("close", () => sessions.delete(session));
  session.on("stream", (stream) => {
    count(1);
    stream.once("close", () => sessions.has(session) && count(-1));
  });
  session.setTimeout(idleTimeoutMs, () => {
    if (sessions.get(session) === 0) {
      session.close();
    }
  });
}

function createHttp1(
  limits: PortLimits,
  onRequest: (request: HttpRequest, response: HttpResponse) => void,
) {
  const server = createHttp1Server(
    {
      maxHeaderSize: headerBytesMax,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      keepAliveTimeout: limits.keepAliveTimeoutMs,
      connectionsCheckingInterval: limits.checkIntervalMs,
    },
    onRequest,
  );
  server.maxRequestsPerSocket = requestsPerSocketMax;
  return server;
}

function createHttp2(onRequest: (request: HttpRequest, response: HttpResponse) => void) {
  const server = createHttp2Server(
    {
      maxSessionInvalidFrames: 100,
      maxSessionRejectedStreams: 100,
      streamResetBurst: 200,
      streamResetRate: 20,
      settings: {
        enablePush: false,
        initialWindowSize: windowBytes,
        maxConcurrentStreams: streamsPerSessionMax,
        maxHeaderListSize: headerBytesMax,
      },
    },
    onRequest,
  );
  server.on("sessionError", ignore);
  server.on("session", (session: ServerHttp2Session) => {
    session.on("error", ignore);
    session.setLocalWindowSize(windowBytes);
  });
  return server;
}

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/** Read until it is clear whether a connection speaks HTTP/2, and put back what was read. */
function sniff(socket: Socket, timeoutMs: number, decide: (isHttp2: boolean) => void): void {
  let seen: Buffer = Buffer.alloc(0);
  const timer = setTimeout(() => socket.destroy(), timeoutMs);
  const destroy = () => socket.destroy();
  const stop = () => {
    clearTimeout(timer);
    socket.off("readable", read);
    socket.off("end", destroy);
    socket.off("close", stop);
  };
  const read = () => {
    const chunk: Buffer | null = socket.read();
    if (chunk === null) {
      return;
    }
    seen = seen.length === 0 ? chunk : Buffer.concat([seen, chunk]);
    const compared = Math.min(seen.length, preface.length);
    const isPrefix = preface.compare(seen, 0, compared, 0, compared) === 0;
    if (isPrefix && compared < preface.length) {
      return;
    }
    stop();
    socket.off("error", destroy);
    socket.unshift(seen);
    decide(isPrefix);
  };
  socket.on("error", destroy);
  socket.on("end", destroy);
  socket.on("close", stop);
  socket.on("readable", read);
}

function announceClose(response: HttpResponse): void {
  if (!("stream" in response) && !response.headersSent) {
    response.setHeader("connection", "close");
  }
}

// First say that the session ends, then, a round trip later, which streams still count: a request
// that the client sent meanwhile is served, not lost. Without streams Node would stop to read after
// the first notice, and see neither the answer nor the end of the connection.
function leave(session: ServerHttp2Session, streams: number): void {
  if (session.destroyed) {
    return;
  }
  if (streams === 0) {
    session.close();
    return;
  }
  session.goaway(0, 2 ** 31 - 1);
  if (!session.ping(() => session.close())) {
    session.close();
  }
}

function destroyAll(sockets: ReadonlySet<Socket>): void {
  for (const socket of sockets) {
    socket.destroy();
  }
}

// A broken connection is the client's affair: whoever serves the request sees it as "close".
function ignore(): void {}
