import { constants } from "node:http2";
import { type HttpRequest, type HttpResponse, headerOf } from "./http-message.ts";

const cancel = 0x8;

// The state of a stream whose client has more to send.
const open = constants.NGHTTP2_STREAM_STATE_OPEN;

/**
 * End the HTTP/2 streams that began in this round of checks or before, and whose request has not
 * arrived as a whole. Over HTTP/1.1 Node does the same by itself.
 */
export function cutSlowBodies(
  running: ReadonlyMap<HttpResponse, number>,
  round: number,
  mayBeSlow: (request: HttpRequest) => boolean = () => false,
): void {
  for (const [response, began] of running) {
    if (began >= round) {
      // In the order of their beginning.
      return;
    }
    if ("stream" in response && response.stream.state?.state === open) {
      const request = response.req;
      if (!mayBeSlow(request)) {
        cut(request, response);
      }
    }
  }
}

function cut(request: HttpRequest, response: Extract<HttpResponse, { stream: unknown }>): void {
  const { stream } = response;
  if (response.headersSent || headerOf(request, "content-type")?.startsWith("application/grpc")) {
    stream.close(cancel);
    return;
  }
  response.statusCode = 408;
  response.end();
  stream.once("finish", () => stream.close(cancel));
}
