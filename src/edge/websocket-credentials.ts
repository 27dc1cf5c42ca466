import { Code } from "@connectrpc/connect";
import { permissionDenied, reasoned } from "../rpc/errors.ts";
import { type HttpRequest, headerOf, toHeaders } from "./http-message.ts";

/** The protocol that is spoken on every WebSocket: each text message is JSON. */
export const protocolName = "callora.v1";

const bearerPrefix = "bearer.";

/**
 * The headers of a request for a WebSocket as the steps of a call read them. A script in a browser can set
 * no header but the list of protocols, and names its token there: `callora.v1, bearer.TOKEN`.
 *
 * A page of an origin that is not ours may send cookies too, without asking anybody. It must be allowed by
 * name, or else its cookies do not count; where no origin is allowed but ours it is refused. Throws what
 * the client is told.
 */
export function credentialsOf(request: HttpRequest, origins: readonly string[]): Headers {
  const header = toHeaders(request);
  const names = (headerOf(request, "sec-websocket-protocol") ?? "")
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
  if (names.length > 0 && !names.includes(protocolName)) {
    throw invalid(`Cannot open a WebSocket: its protocols must include ${protocolName}`);
  }
  const tokens = names.filter((name) => name.startsWith(bearerPrefix));
  const [token] = tokens;
  if (tokens.length > 1 || (token !== undefined && header.has("authorization"))) {
    throw invalid("Cannot open a WebSocket: it brings more than one credential");
  }
  if (token !== undefined) {
    header.set("authorization", `Bearer ${token.slice(bearerPrefix.length)}`);
  }
  header.delete("sec-websocket-protocol");
  const origin = headerOf(request, "origin");
  if (origin !== undefined && !isOwn(request, origin) && !origins.includes(origin)) {
    if (!origins.includes("*")) {
      throw permissionDenied("ORIGIN_DENIED", "Cannot open a WebSocket: its origin is not allowed");
    }
    header.delete("cookie");
  }
  return header;
}

function isOwn(request: HttpRequest, origin: string): boolean {
  const url = URL.parse(origin);
  const isSecure = "encrypted" in request.socket && request.socket.encrypted === true;
  // Behind a proxy that speaks TLS for us an https page is ours too.
  return (
    url !== null && url.host === request.headers.host && (!isSecure || url.protocol === "https:")
  );
}

function invalid(message: string) {
  return reasoned(Code.InvalidArgument, { reason: "REQUEST_INVALID", message });
}
