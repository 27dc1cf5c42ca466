import type { Socket } from "node:net";
import { createServer, type TLSSocket } from "node:tls";
import type { Spoken } from "./sniff.ts";

/** A certificate chain and its private key, both as PEM. */
export interface TlsIdentity {
  readonly cert: string;
  readonly key: string;
  /** Certificates of authorities, as PEM. With them only clients with a certificate of theirs get through. */
  readonly clientCa?: string | undefined;
}

/**
 * Prepare to speak TLS on connections that begin with a handshake. The client chooses between
 * HTTP/2 and HTTP/1.1 by ALPN; one that does not ask gets HTTP/1.1, one that asks for neither an
 * alert.
 */
export function createTls(
  { cert, key, clientCa }: TlsIdentity,
  {
    handshakeTimeoutMs,
    onSecure,
  }: {
    handshakeTimeoutMs: number;
    onSecure: (socket: TLSSocket, isHttp2: boolean) => void;
  },
): (socket: Socket) => void {
  const server = createServer(
    {
      cert,
      key,
      minVersion: "TLSv1.2",
      ALPNProtocols: ["h2", "http/1.1"],
      handshakeTimeout: handshakeTimeoutMs,
      ...(clientCa === undefined ? {} : { ca: clientCa, requestCert: true }),
    },
    (socket) => onSecure(socket, socket.alpnProtocol === "h2"),
  );
  server.on("tlsClientError", (_error, socket) => socket.destroy());
  return (socket) => {
    server.emit("connection", socket);
  };
}

/** Tell a client that speaks HTTP in the clear that this port does not, in its own protocol. */
export function refuseCleartext(socket: Socket, spoken: Exclude<Spoken, "tls">): void {
  socket.on("error", () => socket.destroy());
  socket.setTimeout(lastWordsMs, () => socket.destroy());
  socket.end(spoken === "http2" ? http2Refusal() : http1Refusal());
  // What the client has sent is read, or the kernel would reset the connection before it has read
  // the refusal.
  socket.resume();
}

const lastWordsMs = 1_000;
const refusal = "Cannot read request: this port speaks TLS, use https";

function http1Refusal(): string {
  const body = JSON.stringify({ code: 3, message: refusal, details: [] });
  return [
    "HTTP/1.1 400 Bad Request",
    "content-type: application/json",
    `content-length: ${body.length}`,
    "connection: close",
    "",
    body,
  ].join("\r\n");
}

// SETTINGS, then GOAWAY with INADEQUATE_SECURITY.
function http2Refusal(): Buffer {
  const debug = Buffer.from(refusal);
  const goaway = Buffer.alloc(17);
  goaway.writeUIntBE(8 + debug.length, 0, 3);
  goaway[3] = 7;
  goaway.writeUInt32BE(0xc, 13);
  return Buffer.concat([Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]), goaway, debug]);
}
