import { Code, ConnectError } from "@connectrpc/connect";
import { type HttpRequest, type HttpResponse, isCutOff, isGone } from "../http-message.ts";

/**
 * Read a whole body. `refuse` is asked at each part, with the bytes so far and the first of them,
 * whether it is too much; what it returns is thrown, and the rest of the body dropped. Throws
 * CANCELED if the client leaves.
 */
export function collect(
  { request, response }: { request: HttpRequest; response: HttpResponse },
  refuse: (size: number, head: Buffer) => Error | undefined,
): Promise<Buffer> {
  if (isGone(response)) {
    return Promise.reject(clientLeft());
  }
  // Over HTTP/2 straight from the stream: the request is a second stream on top of it.
  const source = "stream" in request ? request.stream : request;
  return new Promise((resolve, reject) => {
    let head: Buffer | undefined;
    let rest: Buffer[] | undefined;
    let size = 0;
    const onData = (chunk: Buffer) => {
      size += chunk.length;
      if (head === undefined) {
        head = chunk;
      } else {
        rest ??= [head];
        rest.push(chunk);
      }
      const refusal = refuse(size, head);
      if (refusal !== undefined) {
        stop();
        // What still comes is dropped, so that the client gets to read the reply.
        source.resume();
        reject(refusal);
      }
    };
    const onEnd = () => {
      stop();
      if (isCutOff(request)) {
        reject(clientLeft());
      } else {
        resolve(rest === undefined ? (head ?? empty) : Buffer.concat(rest, size));
      }
    };
    const onClose = () => {
      stop();
      reject(clientLeft());
    };
    // Node keeps a stream of HTTP/2 until the next full collection, with all that listens to it.
    const stop = () => {
      source.off("data", onData);
      source.off("end", onEnd);
      source.off("close", onClose);
    };
    source.on("data", onData);
    source.on("end", onEnd);
    source.on("close", onClose);
  });
}

const empty = Buffer.alloc(0);

function clientLeft(): ConnectError {
  return new ConnectError("the client left", Code.Canceled);
}
