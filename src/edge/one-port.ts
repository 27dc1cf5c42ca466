import {
  createServer as createHttp1Server,
  type Server as Http1Server,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import {
  type AddressInfo,
  createServer as createNetServer,
  type Server,
  type Socket,
} from "node:net";
import { type Arrival, Http1Arrival, Http2Arrival } from "./arrival.ts";
import { type BrokenBytes, createRefusal } from "./broken-bytes.ts";
import { Http2Connection } from "./http2/connection.ts";
import type { Http2Stream } from "./http2/stream.ts";
import { Running } from "./running.ts";
import { cutSlowBodies, limitRest } from "./slow-body.ts";
import { sniff } from "./sniff.ts";
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
const requestsPerSocketMax = 10_000;
const tcpKeepAliveMs = 60_000;

/** Whom a port hands its requests. */
export interface PortListeners {
  onRequest: (arrival: Arrival) => void;
  /** Told of requests for a WebSocket over HTTP/1.1. Without it they are plain requests. */
  onUpgrade?: (request: IncomingMessage, socket: Socket, head: Buffer) => void;
  /** Whether a request may take any time to arrive: its messages come as they are made. */
  mayBeSlow?: (arrival: Arrival) => boolean;
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
  readonly http2: Set<Http2Connection>;
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
    http2: new Set(),
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
  const acceptHttp2 = (stream: Http2Stream) => {
    const arrival = new Http2Arrival(stream);
    state.running.add(arrival, state.round);
    if (state.closing) {
      stream.connection.leave();
    }
    if (arrival.header("expect") === "100-continue") {
      stream.inform(100);
    }
    listeners.onRequest(arrival);
  };
  const serveHttp2 = (socket: Socket) => {
    const connection = new Http2Connection(socket, {
      idleTimeoutMs: limits.sessionIdleTimeoutMs,
      onStream: acceptHttp2,
      onClose: () => state.http2.delete(connection),
    });
    state.http2.add(connection);
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
  const server = createListener(state, { http1, serveHttp2, limits, tls });
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
    serveHttp2,
    limits,
    tls,
  }: {
    http1: Http1Server;
    serveHttp2: (socket: Socket) => void;
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
      serveHttp2(socket);
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
  for (const connection of state.http2) {
    if (connection.streams.size > 0) {
      connection.leave();
    }
  }
  const leaveIdle = () => {
    state.lingered = true;
    // Later ones close by themselves: each reply says that it is the last.
    http1.closeIdleConnections();
    destroyAll(state.undecided);
    destroyAll(state.fresh);
    for (const connection of state.http2) {
      if (connection.streams.size === 0) {
        connection.close();
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

/** As Node would say it. */
function tooSlow(): BrokenBytes {
  return Object.assign(new Error("Request timeout"), { code: "ERR_HTTP_REQUEST_TIMEOUT" });
}

function announceClose(arrival: Arrival): void {
  if (arrival instanceof Http1Arrival && !arrival.headersSent) {
    arrival.setHeader("connection", "close");
  }
}

function destroyAll(sockets: ReadonlySet<Socket>): void {
  for (const socket of sockets) {
    socket.destroy();
  }
}

// A broken connection is the client's affair: whoever serves the request sees it as "close".
function ignore(): void {}
