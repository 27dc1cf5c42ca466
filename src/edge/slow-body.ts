import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { type Arrival, Http1Arrival, Http2Arrival } from "./arrival.ts";
import { errorCodes } from "./http2/codes.ts";
import { HttpError } from "./rest/errors.ts";
import { toErrorReply } from "./rest/status.ts";
import type { Run } from "./running.ts";

/** What slow bodies are judged by. */
export interface SlowBodies {
  /** Those that began before this round of checks are late. */
  round: number;
  /** Whether a request may take any time to arrive. */
  mayBeSlow?: ((arrival: Arrival) => boolean) | undefined;
  /** Told of a connection of HTTP/1.1 whose request is late. */
  onLate: (socket: Socket) => void;
}

/** End the requests that have not arrived as a whole in time. */
export function cutSlowBodies(
  running: Iterable<Run>,
  { round, mayBeSlow = () => false, onLate }: SlowBodies,
): void {
  // Some end at once when they are cut, and leave.
  for (const { arrival, round: began } of [...running]) {
    if (began >= round || mayBeSlow(arrival)) {
      continue;
    }
    if (arrival instanceof Http2Arrival) {
      if (arrival.stream.isOpen) {
        cut(arrival);
      }
    } else if (arrival instanceof Http1Arrival && arrival.hasBody && !arrival.body.complete) {
      onLate(arrival.socket);
    }
  }
}

/** End a connection of HTTP/1.1 that was answered before its request had arrived, when the rest takes too long. */
export function limitRest(
  { hasBody, body, socket }: Pick<Http1Arrival, "hasBody" | "body" | "socket">,
  response: ServerResponse,
  timeoutMs: number,
): void {
  if (!hasBody) {
    return;
  }
  response.once("finish", () => {
    if (!body.complete) {
      const timer = setTimeout(() => body.complete || socket.destroy(), timeoutMs).unref();
      body.once("close", () => clearTimeout(timer));
    }
  });
}

function cut(arrival: Http2Arrival): void {
  const { stream } = arrival;
  if (arrival.headersSent || arrival.header("content-type")?.startsWith("application/grpc")) {
    stream.reset(errorCodes.cancel);
    return;
  }
  stream.resetOnceSent(errorCodes.cancel);
  const error = new HttpError(408, "Cannot wait for the rest of the request");
  const requestId = arrival.replyHeader("x-request-id");
  const { status, headers, body } = toErrorReply(error, { format: "json", requestId });
  arrival.send(status, headers, body);
}
