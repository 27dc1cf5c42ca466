import type { ServerResponse } from "node:http";
import { constants, type Http2ServerResponse } from "node:http2";

/** The reply to a consumer, over either version of HTTP. */
export type Response = ServerResponse | Http2ServerResponse;

/** How the sending of a reply ended: with the last part kept back, or early, on whose side. */
export type RelayEnd =
  | { kind: "whole"; rest: Buffer }
  | { kind: "consumer-left" }
  | { kind: "upstream-broke-off"; error: unknown };

/**
 * Send an upstream's body on as it comes, at the consumer's pace, but keep back what would complete the reply: of a
 * body with a length its last part, of one without only its end.
 *
 * `begin` is called before the first part is sent.
 */
export async function relayBody(
  body: AsyncIterable<Buffer>,
  response: Response,
  { length, begin }: { length: number | null; begin: () => void },
): Promise<RelayEnd> {
  const rest: Buffer[] = [];
  let received = 0;
  try {
    for await (const chunk of body) {
      received += chunk.length;
      if (length !== null && received >= length) {
        rest.push(chunk);
        continue;
      }
      begin();
      if (!(await write(response, chunk))) {
        return { kind: "consumer-left" };
      }
    }
  } catch (error) {
    return hasLeft(response) ? { kind: "consumer-left" } : { kind: "upstream-broke-off", error };
  }
  return { kind: "whole", rest: Buffer.concat(rest) };
}

/** Whether nobody can read the reply any more. */
export function hasLeft(response: Response): boolean {
  return "stream" in response ? response.stream.destroyed : response.destroyed;
}

/** Break a reply off, as if its reader had left. */
export function cutOff(response: Response): void {
  if ("stream" in response) {
    response.stream.close(constants.NGHTTP2_CANCEL);
  } else {
    response.destroy();
  }
}

/** Write a part. Resolves when more may be written: true, or when the consumer has left: false. */
async function write(response: Response, chunk: Buffer): Promise<boolean> {
  // Both kinds of response are streams; their types have no common ancestor that says so.
  const sink = response as ServerResponse;
  if (hasLeft(response)) {
    return false;
  }
  if (sink.write(chunk)) {
    return true;
  }
  await new Promise<void>((resolve) => {
    function done() {
      sink.off("drain", done);
      sink.off("close", done);
      resolve();
    }
    sink.once("drain", done);
    sink.once("close", done);
  });
  return !hasLeft(response);
}
