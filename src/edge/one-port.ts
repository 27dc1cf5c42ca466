import {
  createServer as createHttp1Server,
  type Server as Http1Server,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import {
  createServer as createHttp2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import {
  type AddressInfo,
  createServer as createNetServer,
  type Server,
  type Socket,
} from "node:net";
import { type Arrival, Http1Arrival, Http2Arrival } from "./arrival.ts";
import { type BrokenBytes, createRefusal } from "./broken-bytes.ts";
import { limitControlFrames } from "./frame-budget.ts";
import { Running } from "./running.ts";
import { cutSlowBodies, limitRest } from "./slow-body.ts";
import { sniff } from "./sniff.ts";
import { replaceStreamTable } from "./stream-table.ts";
import { createTls, refuseCleartext, type TlsIdentity } from "./tls.ts";

/** HTTP/1.1 and HTTP/2 on one port, in the clear or, with an identity, over TLS. */
export interface OnePort {
  /** Start to accept. Rejects with the system's error, for example one of code EADDRINUSE. */
  listen(address: { host: string; port: number }): Promise<AddressInfo>;
  /** Accept no more, let running requests finish, and after the grace time break them off. */
  close(options: { graceMs: number }): Promise<void>;
}

/** The limits of a port. All have defaults. */
export interface PortLimits {
  /** For a new connection to show which protocol it speaks, and again for a TLS handshake. */
  firstByteTimeoutMs: number;
  /** For the headers of an HTTP/1.1 request. */
  headersTimeoutMs: number;
  /** For a whole request to arrive. The reply may take longer. */
  requestTimeoutMs: number;
  /** For the next HTTP/1.1 request of a connection. */
  keepAliveTimeoutMs: number;
  /** For an HTTP/2 connection without streams. */
  sessionIdleTimeoutMs: number;
  /** How often the timeouts of requests are looked at. */
  checkIntervalMs: number;
  /** How long a close spares idle connections: a request may be on its way. */
  lingerMs: number;
  connectionsMax: number;
}

const defaultLimits: PortLimits = {
  firstByteTimeoutMs: 10_000,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 60_000,
  keepAliveTimeoutMs: 75_000,
  sessionIdleTimeoutMs: 60_000,
  checkIntervalMs: 5_000,
  lingerMs: 250,
  connectionsMax: 10_000,
};

const headerBytesMax = 16 * 1024;
/** Beyond it Node resets a stream. What is told of a target that is too long must come before. */
const http2HeaderBytesMax = 2 * headerBytesMax;
const requestsPerSocketMax = 10_000;
const streamsPerSessionMax = 100;
const windowBytes = 1024 * 1024;

/**
 * What Node may hold for a session, in units of a million bytes. With its own 10 it refuses new streams
 * while three large messages wait to be sent.
 */
const sessionMegabytesMax = 64;
const tcpKeepAliveMs = 60_000;

/** Whom a port hands its requests. */
export interface PortListeners {
  onRequest: (arrival: Arrival) => void;
  /** Told of requests for a WebSocket over HTTP/1.1. Without it they are plain requests. */
  onUpgrade?: (request: IncomingMessage, socket: Socket, head: Buffer) => void;
  /** Whether a request may take any time to arrive: its messages come as they are made. */
  mayBeSlow?: (arrival: Arrival) => boolean;
}

interface Session {
  streams: number;
  /** Whether the client was told that the session ends. */
  left: boolean;
}

/** What a port knows of its connections. */
interface State {
  closing: boolean;
  /** Whether a close spares idle connections no more. */
  lingered: boolean;
  readonly sockets: Set<Socket>;
  /** Those of the sockets whose protocol is not known yet. */
  readonly undecided: Set<Socket>;
  /** HTTP/1.1 connections that have not brought a request. Node counts them as busy. */
  readonly fresh: Set<Socket>;
  readonly sessions: Map<ServerHttp2Session, Session>;
  readonly running: Running;
  /** Counts the rounds of checks. */
  round: number;
}

/** Open a port that hands every request, whichever HTTP version carries it, to one listener. */
export function createOnePort({
  limits: overrides = {},
  tls,
  ...listeners
}: PortListeners & { limits?: Partial<PortLimits>; tls?: TlsIdentity | undefined }): OnePort {
  const limits = { ...defaultLimits, ...overrides };
  const state: State = {
    closing: false,
    lingered: false,
    sockets: new Set(),
    undecided: new Set(),
    fresh: new Set(),
    sessions: new Map(),
    running: new Running(),
    round: 0,
  };
  const acceptHttp1 = (request: IncomingMessage, response: ServerResponse) => {
    response.on("error", ignore);
    state.fresh.delete(request.socket);
    const arrival = new Http1Arrival(request, response);
    state.running.add(arrival, state.round);
    limitRest(arrival, response, limits.requestTimeoutMs);
    if (state.closing) {
      announceClose(arrival);
    }
    listeners.onRequest(arrival);
  };
  const acceptHttp2 = (
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    _flags: number,
    rawHeaders: string[],
  ) => {
    stream.on("error", ignore);
    const arrival = new Http2Arrival(stream, headers, rawHeaders);
    state.running.add(arrival, state.round);
    watchStream(state, arrival);
    if (headers.expect === "100-continue" && !arrival.isGone) {
      stream.additionalHeaders({ ":status": 100 });
    }
    listeners.onRequest(arrival);
  };
  const { onUpgrade } = listeners;
  const upgrade: typeof onUpgrade =
    onUpgrade &&
    ((request, socket, head) => {
      state.fresh.delete(socket);
      onUpgrade(request, socket, head);
    });
  const http1 = createHttp1(limits, acceptHttp1, upgrade);
  const refuse = createRefusal(state.running);
  http1.on("clientError", (error: BrokenBytes, socket) => refuse(error, socket as Socket));
  const http2 = createHttp2();
  http2.on("session", (session: ServerHttp2Session) =>
    watchSession(state, session, limits.sessionIdleTimeoutMs),
  );
  http2.on("stream", acceptHttp2);
  const server = createListener(state, { http1, http2, limits, tls });
  let timer: NodeJS.Timeout | undefined;

  return {
    async listen(address) {
      const bound = await listen(server, address);
      // An http.Server that never listens checks no timeout unless it believes that it does.
      http1.emit("listening");
      timer = setInterval(() => {
        state.round++;
        const roundsMax = Math.ceil(limits.requestTimeoutMs / limits.checkIntervalMs);
        cutSlowBodies(state.running, {
          round: state.round - roundsMax,
          mayBeSlow: listeners.mayBeSlow,
          onLate: (socket) => refuse(tooSlow(), socket),
        });
      }, limits.checkIntervalMs).unref();
      return bound;
    },
    async close({ graceMs }) {
      await drain(state, { server, http1, lingerMs: Math.min(limits.lingerMs, graceMs), graceMs });
      clearInterval(timer);
    },
  };
}

function createListener(
  state: State,
  {
    http1,
    http2,
    limits,
    tls,
  }: {
    http1: Http1Server;
    http2: ReturnType<typeof createHttp2>;
    limits: PortLimits;
    tls: TlsIdentity | undefined;
  },
): Server {
  const serve = (socket: Socket, isHttp2: boolean) => {
    state.undecided.delete(socket);
    if (state.lingered) {
      socket.destroy();
      return;
    }
    // A session that its client has left must not linger.
    socket.allowHalfOpen = !isHttp2;
    if (isHttp2) {
      http2.emit("connection", socket);
      return;
    }
    state.fresh.add(socket);
    socket.once("close", () => state.fresh.delete(socket));
    http1.emit("connection", socket);
  };
  const handshakeTimeoutMs = limits.firstByteTimeoutMs;
  const secure = tls && createTls(tls, { handshakeTimeoutMs, onSecure: serve });
  const server = createNetServer(
    { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: tcpKeepAliveMs },
    (socket) => {
      watchSocket(state, socket);
      sniff(socket, limits.firstByteTimeoutMs, (spoken) => {
        if (secure === undefined) {
          serve(socket, spoken === "http2");
          return;
        }
        state.undecided.delete(socket);
        if (spoken === "tls") {
          secure(socket);
        } else {
          refuseCleartext(socket, spoken);
        }
      });
    },
  );
  server.maxConnections = limits.connectionsMax;
  return server;
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

/**
 * Stop to accept, tell clients that their connections end, and wait for them. Idle connections are
 * told last, when nothing can be on its way any more.
 */
async function drain(
  state: State,
  {
    server,
    http1,
    lingerMs,
    graceMs,
  }: { server: Server; http1: Http1Server; lingerMs: number; graceMs: number },
): Promise<void> {
  state.closing = true;
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  for (const { arrival } of state.running) {
    announceClose(arrival);
  }
  for (const [session, known] of state.sessions) {
    leaveBusy(session, known);
  }
  const leaveIdle = () => {
    state.lingered = true;
    // Later ones close by themselves: each reply says that it is the last.
    http1.closeIdleConnections();
    destroyAll(state.undecided);
    destroyAll(state.fresh);
    for (const [session, { streams }] of state.sessions) {
      if (streams === 0) {
        session.close();
      }
    }
  };
  // A process that was busy first reads what has come meanwhile.
  const lingering = setTimeout(() => setImmediate(leaveIdle), lingerMs);
  const timer = setTimeout(() => destroyAll(state.sockets), graceMs);
  await closed;
  clearTimeout(lingering);
  clearTimeout(timer);
  // Only now, since it ends the checks of timeouts.
  http1.close();
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
  const known: Session = { streams: 0, left: false };
  state.sessions.set(session, known);
  session.once("close", () => state.sessions.delete(session));
  session.setTimeout(idleTimeoutMs, () => {
    if (session.closed) {
      // Node never ends a session, nor its streams, whose client sent GOAWAY and then left.
      session.destroy();
    } else if (known.streams === 0) {
      session.close();
    }
  });
}

/** Count a stream of its session, and end the session after its last one when there shall be no more. */
function watchStream(state: State, arrival: Http2Arrival): void {
  const { session } = arrival.stream;
  const known = session && state.sessions.get(session as ServerHttp2Session);
  if (known === undefined) {
    return;
  }
  known.streams++;
  if (state.closing) {
    leaveBusy(session as ServerHttp2Session, known);
  }
  arrival.onceClosed(() => {
    known.streams--;
    if (known.streams === 0 && state.closing) {
      session?.close();
    }
  });
}

function createHttp1(
  limits: PortLimits,
  onRequest: (request: IncomingMessage, response: ServerResponse) => void,
  onUpgrade: PortListeners["onUpgrade"],
): Http1Server {
  const server = createHttp1Server(
    {
      maxHeaderSize: headerBytesMax,
      headersTimeout: limits.headersTimeoutMs,
      // Node knows one for all: see cutSlowBodies().
      requestTimeout: 0,
      keepAliveTimeout: limits.keepAliveTimeoutMs,
      connectionsCheckingInterval: limits.checkIntervalMs,
      // Others, such as h2c, are an offer that a server may leave alone.
      shouldUpgradeCallback: ({ headers }) =>
        onUpgrade !== undefined && headers.upgrade?.toLowerCase() === "websocket",
    },
    onRequest,
  );
  server.maxRequestsPerSocket = requestsPerSocketMax;
  server.on("upgrade", (request, socket, head) => {
    socket.on("error", ignore);
    // Whatever hands over connections hands over sockets.
    onUpgrade?.(request, socket as Socket, head);
  });
  return server;
}

function createHttp2() {
  const server = createHttp2Server({
    maxSessionInvalidFrames: 100,
    maxSessionRejectedStreams: 100,
    maxSessionMemory: sessionMegabytesMax,
    streamResetBurst: 200,
    streamResetRate: 20,
    settings: {
      enablePush: false,
      initialWindowSize: windowBytes,
      maxConcurrentStreams: streamsPerSessionMax,
      maxHeaderListSize: http2HeaderBytesMax,
    },
  });
  server.on("sessionError", ignore);
  server.on("session", (session: ServerHttp2Session) => {
    session.on("error", ignore);
    replaceStreamTable(session);
    session.setLocalWindowSize(windowBytes);
    limitControlFrames(session);
  });
  return server;
}

/** As Node would say it. */
function tooSlow(): BrokenBytes {
  return Object.assign(new Error("Request timeout"), { code: "ERR_HTTP_REQUEST_TIMEOUT" });
}

function announceClose(arrival: Arrival): void {
  if (arrival instanceof Http1Arrival && !arrival.headersSent) {
    arrival.setHeader("connection", "close");
  }
}

// First say that the session ends, then, a round trip later, which streams still count: a request
// that the client sent meanwhile is served, not lost. Without streams Node would stop to read after
// the first notice, and see neither the answer nor the end of the connection.
function leaveBusy(session: ServerHttp2Session, known: Session): void {
  if (session.destroyed || known.left || known.streams === 0) {
    return;
  }
  known.left = true;
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
