import { randomUUID } from "node:crypto";
import type { Socket } from "node:net";
import { HttpError } from "./rest/errors.ts";
import { titleByStatus, toErrorReply } from "./rest/status.ts";
import type { Running } from "./running.ts";

/** What Node's parser of HTTP/1.1 says of bytes that are no request, or of one that came too slowly. */
export type BrokenBytes = Error & {
  readonly code?: string | undefined;
  /** How far it came in the packet. */
  readonly bytesParsed?: number | undefined;
  readonly rawPacket?: Buffer | undefined;
};

/** For the client to read the answer and close. */
const lastWordsMs = 1_000;

/**
 * Prepare to answer what is no request, and to close its connection. Requests that came before it are
 * answered before.
 */
export function createRefusal(running: Running): (error: BrokenBytes, socket: Socket) => void {
  const refused = new WeakSet<Socket>();
  return (error, socket) => {
    // What still comes fails as well.
    if (refused.has(socket)) {
      return;
    }
    refused.add(socket);
    if (!socket.writable || error.code === "ECONNRESET") {
      socket.destroy();
      return;
    }
    let left = 1;
    const onAnswered = () => {
      left--;
      if (left === 0) {
        refuse(socket, error);
      }
    };
    for (const { arrival } of running) {
      if (arrival.socket !== socket) {
        continue;
      }
      if (arrival.body.readableEnded || isWhole(arrival.body)) {
        left++;
        arrival.onceClosed(onAnswered);
      } else if (arrival.headersSent) {
        // Within the body of a request that is being answered: no place for another answer.
        socket.destroy();
        return;
      }
    }
    onAnswered();
  };
}

function isWhole(body: object): boolean {
  return "complete" in body && body.complete === true;
}

function refuse(socket: Socket, error: BrokenBytes): void {
  const requestId = randomUUID();
  const { status, headers, body } = toErrorReply(explain(error), { format: "json", requestId });
  const lines = Object.entries({
    ...headers,
    "content-length": String(Buffer.byteLength(body)),
    "x-request-id": requestId,
    "x-content-type-options": "nosniff",
    connection: "close",
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${titleByStatus[status]}\r\n${lines.join("")}\r\n${body}`);
  const timer = setTimeout(() => socket.destroy(), lastWordsMs);
  socket.once("close", () => clearTimeout(timer));
}

/** What is wrong with the bytes, in the terms of HTTP. */
export function explain(error: BrokenBytes): HttpError {
  switch (error.code) {
    case "HPE_HEADER_OVERFLOW":
      return isInTarget(error)
        ? new HttpError(414, "Cannot read request: its target is too long")
        : new HttpError(431, "Cannot read request: its headers are too large");
    case "HPE_CHUNK_EXTENSIONS_OVERFLOW":
      return new HttpError(413, "Cannot read body: the extensions of its chunks are too long");
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new HttpError(408, "Cannot wait for the rest of the request");
    default:
      return new HttpError(400, "Cannot read request: it is not valid HTTP/1.1");
  }
}

// Only the last packet is known. One that neither begins a request nor ends a line lies within the target or
// within a header: no target holds a space, and few tokens hold what separates the parts of a query.
function isInTarget({ rawPacket, bytesParsed }: BrokenBytes): boolean {
  const parsed = rawPacket?.toString("latin1", 0, bytesParsed) ?? "";
  const head = parsed.slice(parsed.lastIndexOf("\r\n\r\n") + 1).trimStart();
  if (head.includes("\n")) {
    return false;
  }
  return /^[A-Z]+ \S*$/.test(head) || /^[^ ]*[?&%][^ ]*$/.test(head);
}
