import {
  type Http2ServerRequest,
  Http2ServerResponse,
  type OutgoingHttpHeaders,
  sensitiveHeaders,
} from "node:http2";

/** Reply headers that hold credentials: HTTP/2 must keep them out of its compression tables. */
export const credentialHeaders = ["set-cookie", "authorization", "proxy-authorization"];

/**
 * A reply over HTTP/2 that marks its credentials as never to be indexed, by no hop on its way.
 * Node's class cannot be told of it, so the headers are marked where it hands them to the stream.
 */
export class SensitiveResponse extends Http2ServerResponse<Http2ServerRequest> {
  override setHeader(name: string, value: number | string | readonly string[]): void {
    this.#mark(name);
    super.setHeader(name, value);
  }

  override appendHeader(name: string, value: string | string[]): void {
    this.#mark(name);
    super.appendHeader(name, value);
  }

  override writeHead(status: number, ...rest: unknown[]): this {
    const headers = rest.at(-1);
    if (typeof headers === "object" && headers !== null) {
      for (const name of Object.keys(headers)) {
        this.#mark(name);
      }
    }
    return super.writeHead(status, ...(rest as [OutgoingHttpHeaders]));
  }

  #isMarked = false;

  #mark(name: string): void {
    if (this.#isMarked || !credentialHeaders.includes(name.toLowerCase())) {
      return;
    }
    this.#isMarked = true;
    const { stream } = this;
    const respond = stream.respond.bind(stream);
    stream.respond = (headers, options) =>
      respond({ ...headers, [sensitiveHeaders]: credentialHeaders }, options);
  }
}
