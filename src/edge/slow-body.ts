import { constants } from "node:http2";
import { type Arrival, Http2Arrival } from "./arrival.ts";
import { HttpError } from "./rest/errors.ts";
import { toErrorReply } from "./rest/status.ts";
import type { Run } from "./running.ts";

const cancel = 0x8;

// The state of a stream whose client has more to send.
const open = constants.NGHTTP2_STREAM_STATE_OPEN;

/**
 * End the HTTP/2 streams that began in this round of checks or before, and whose request has not
 * arrived as a whole. Over HTTP/1.1 Node does the same by itself.
 */
export function cutSlowBodies(
  running: Iterable<Run>,
  round: number,
  mayBeSlow: (arrival: Arrival) => boolean = () => false,
): void {
  // Some end at once when they are cut, and leave.
  for (const { arrival, round: began } of [...running]) {
    const isLate = began < round && arrival instanceof Http2Arrival;
    if (isLate && arrival.stream.state?.state === open && !mayBeSlow(arrival)) {
      cut(arrival);
    }
  }
}

function cut(arrival: Http2Arrival): void {
  const { stream } = arrival;
  if (arrival.headersSent || arrival.header("content-type")?.startsWith("application/grpc")) {
    stream.close(cancel);
    return;
  }
  stream.once("finish", () => stream.close(cancel));
  const error = new HttpError(408, "Cannot wait for the rest of the request");
  const requestId = arrival.replyHeader("x-request-id");
  const { status, headers, body } = toErrorReply(error, { format: "json", requestId });
  arrival.send(status, headers, body);
}
