import type { IncomingHttpHeaders } from "node:http2";
import { singleHeaders } from "../../lib/single-headers.ts";

/** The head of a request. */
export interface RequestHead {
  /** Names and values by turns, as sent. */
  readonly fields: string[];
  /** By name. Values of several fields are joined; of what can be said only once the first counts. */
  readonly headers: IncomingHttpHeaders;
  /** Bytes of the body, if the client said. */
  readonly contentLength: number | undefined;
}

/** Why a head is malformed (RFC 9113, section 8.2). */
export interface Malformed {
  readonly problem: string;
}

const namePattern = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
const valuePattern = /^(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?$/;
const lengthPattern = /^\d{1,15}$/;

const pseudoHeaders: ReadonlySet<string> = new Set([":method", ":scheme", ":path", ":authority"]);

/** What belongs to a connection of HTTP/1.1. */
const forbidden: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "transfer-encoding",
  "upgrade",
]);

/** Read the fields of a request, names and values by turns. */
export function readRequestHead(fields: string[]): RequestHead | Malformed {
  const headers: IncomingHttpHeaders = Object.create(null);
  let contentLength: number | undefined;
  let isPseudo = true;
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index] as string;
    const value = fields[index + 1] as string;
    if (name.charCodeAt(0) === colon) {
      if (!isPseudo || !pseudoHeaders.has(name) || headers[name] !== undefined) {
        return { problem: `the pseudo-header ${JSON.stringify(name)} may not stand there` };
      }
    } else {
      isPseudo = false;
      if (!namePattern.test(name)) {
        return { problem: "a header has a malformed name" };
      }
      if (forbidden.has(name) || (name === "te" && value.toLowerCase() !== "trailers")) {
        return { problem: `the header ${name} is one of a connection` };
      }
    }
    if (!valuePattern.test(value)) {
      return { problem: `the header ${name} has a malformed value` };
    }
    if (name === "content-length") {
      if (!lengthPattern.test(value) || headers[name] !== undefined) {
        return { problem: "the header content-length is malformed" };
      }
      contentLength = Number(value);
    }
    add(headers, name, value);
  }
  const problem = findMissing(headers);
  return problem === undefined ? { fields, headers, contentLength } : { problem };
}

/** Whether fields may come after a body. */
export function areTrailers(fields: readonly string[]): boolean {
  for (let index = 0; index < fields.length; index += 2) {
    const [name = "", value = ""] = [fields[index], fields[index + 1]];
    if (!namePattern.test(name) || !valuePattern.test(value) || forbidden.has(name)) {
      return false;
    }
  }
  return true;
}

const colon = 0x3a;

function add(headers: IncomingHttpHeaders, name: string, value: string): void {
  const known = headers[name];
  if (known === undefined) {
    headers[name] = name === "set-cookie" ? [value] : value;
  } else if (typeof known === "object") {
    known.push(value);
  } else if (!singleHeaders.has(name)) {
    headers[name] = `${known}${name === "cookie" ? "; " : ", "}${value}`;
  }
}

function findMissing(headers: IncomingHttpHeaders): string | undefined {
  const { ":method": method, ":scheme": scheme, ":path": path } = headers;
  if (method === undefined || !/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(method)) {
    return "the method is missing or malformed";
  }
  if (method === "CONNECT") {
    const isPlain = scheme === undefined && path === undefined;
    return isPlain && headers[":authority"] !== undefined ? undefined : "CONNECT is malformed";
  }
  if (scheme === undefined || !/^[A-Za-z][A-Za-z0-9+.-]*$/.test(scheme)) {
    return "the scheme is missing or malformed";
  }
  const isPath =
    path !== undefined && (path.startsWith("/") || (path === "*" && method === "OPTIONS"));
  return isPath ? undefined : "the path is missing or malformed";
}
