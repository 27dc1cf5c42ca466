import type { IncomingMessage, ServerResponse } from "node:http";

const typeBase = "https://stellar.org/horizon-errors/";

/** An answer other than success, as Horizon words it. */
export class Problem extends Error {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly extras: object | null;

  constructor(type: string, options: { title: string; status: number } & ProblemDetail) {
    super(options.detail);
    this.type = type;
    this.title = options.title;
    this.status = options.status;
    this.extras = options.extras ?? null;
  }

  body(): object {
    const { type, title, status, message, extras } = this;
    return { type: typeBase + type, title, status, detail: message, ...(extras && { extras }) };
  }
}

type ProblemDetail = { detail: string; extras?: object };

/** There is nothing under this address. */
export function notFound(): Problem {
  const detail = "The resource at the url requested was not found.";
  return new Problem("not_found", { title: "Resource Missing", status: 404, detail });
}

/** A parameter has a value that cannot be. */
export function badRequest(field: string, reason: string): Problem {
  const detail = "The request you sent was invalid in some way.";
  const extras = { invalid_field: field, reason };
  return new Problem("bad_request", { title: "Bad Request", status: 400, detail, extras });
}

/** The ledger takes nothing at the moment. */
export function overloaded(): Problem {
  const detail = "The ledger cannot take more transactions at the moment. Try again later.";
  return new Problem("server_over_capacity", {
    title: "Server Over Capacity",
    status: 503,
    detail,
  });
}

/** Answer with JSON. */
export function sendJson(response: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body);
  const isProblem = status >= 400 && "type" in body;
  response.writeHead(status, {
    "content-type": isProblem ? "application/problem+json" : "application/hal+json; charset=utf-8",
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}

/** Read a form that was posted. Throws a problem when it is too large or something else. */
export async function readForm(
  request: IncomingMessage,
  bytesMax: number,
): Promise<URLSearchParams> {
  const type = request.headers["content-type"] ?? "application/x-www-form-urlencoded";
  if (!type.startsWith("application/x-www-form-urlencoded")) {
    const detail = "The request has an unsupported content type.";
    const title = "Unsupported Media Type";
    throw new Problem("unsupported_media_type", { title, status: 415, detail });
  }
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > bytesMax) {
      const detail = `The request body is larger than ${bytesMax} bytes.`;
      throw new Problem("payload_too_large", { title: "Payload Too Large", status: 413, detail });
    }
    chunks.push(chunk);
  }
  return new URLSearchParams(Buffer.concat(chunks).toString());
}
