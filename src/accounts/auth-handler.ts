import { ConnectError } from "@connectrpc/connect";
import { insertAudit } from "../audit/store.ts";
import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import type { Call } from "../rpc/call.ts";
import { type AuthRequest, type AuthRequests, clientIpHeader, noRequest } from "./auth-request.ts";
import type { AuthRoute } from "./auth-routes.ts";
import type { Attempt, Lockout } from "./lockout.ts";
import { isFromOwnPage, isJson } from "./own-pages.ts";

interface Deps {
  db: Database;
  trust: Trust;
  requests: AuthRequests;
  lockout: Lockout;
  /** Loads better-auth, once: the server's own address is known only when it listens. */
  auth: () => Promise<{ handler: (request: Request) => Promise<Response> }>;
  /** The origins of our own pages. */
  origins: () => ReadonlySet<string>;
  now: () => Date;
}

/**
 * Serve a request of a route that better-auth knows. Answers what better-auth answers; what breaks beneath it is
 * thrown instead. The reply waits until no process can act on a session that the request ended.
 */
export function authHandler(deps: Deps) {
  return async (route: AuthRoute, request: Request, call: Call): Promise<Response> => {
    if (request.method === "POST" && !isJson(request.headers)) {
      const message = "Send JSON, with Content-Type: application/json";
      return problem(415, { code: "UNSUPPORTED_MEDIA_TYPE", message });
    }
    const { clientIp: ip, requestId } = call.exchange;
    const isSignIn = route.path === "/sign-in/email";
    const name = isSignIn ? await emailOf(request) : "";
    const attempt: Attempt = { name, ip, now: deps.now() };
    if (isSignIn) {
      const refusal = delayed(deps.lockout, attempt);
      if (refusal !== undefined) {
        return refusal;
      }
    }
    const path = route.alias ?? route.path;
    const about: AuthRequest = { ...noRequest(), ip, requestId, path };
    const inner = toInner(request, { route, ip, origins: deps.origins() });
    const { handler } = await deps.auth();
    const response = await deps.requests.run(about, () => handler(inner));
    if (isSignIn) {
      await count(deps, { attempt, status: response.status, requestId });
    }
    if (about.epoch > 0n) {
      await deps.trust.settled(about.epoch);
    }
    if (response.status >= 500 && about.failure instanceof Error) {
      throw causeOf(about.failure);
    }
    return neverStored(response);
  };
}

/** Replies hold tokens, or say who somebody is: no cache may keep them. */
function neverStored({ body, status, headers: given }: Response): Response {
  const headers = new Headers(given);
  headers.set("cache-control", "no-store");
  return new Response(body, { status, headers });
}

/** The request as better-auth gets it. */
function toInner(
  request: Request,
  { route, ip, origins }: { route: AuthRoute; ip: string; origins: ReadonlySet<string> },
): Request {
  const url = new URL(request.url);
  if (route.alias !== undefined) {
    url.pathname = url.pathname.replace(route.path, route.alias);
  }
  const headers = new Headers(request.headers);
  headers.set(clientIpHeader, ip);
  // Another's page gets nothing of the visitor. Of POST better-auth itself asks for the origin.
  if (
    request.method === "GET" &&
    route.isArrival !== true &&
    isFromOwnPage(request.headers, origins) === false
  ) {
    headers.delete("cookie");
  }
  const { method, body } = request;
  return new Request(url, { method, headers, body, ...(body === null ? {} : { duplex: "half" }) });
}

const nameLengthMax = 320;

async function emailOf(request: Request): Promise<string> {
  const body: unknown = await request
    .clone()
    .json()
    .catch(() => null);
  const email = typeof body === "object" && body !== null && "email" in body ? body.email : "";
  return typeof email === "string" ? email.slice(0, nameLengthMax) : "";
}

function delayed(lockout: Lockout, attempt: Attempt): Response | undefined {
  try {
    lockout.check(attempt);
    return undefined;
  } catch (error) {
    if (!(error instanceof ConnectError)) {
      throw error;
    }
    const seconds = /(\d+) s$/.exec(error.rawMessage)?.[1] ?? "1";
    const body = { code: "SIGN_IN_DELAYED", message: error.rawMessage };
    return problem(429, body, { "retry-after": seconds });
  }
}

/** Count a wrong password, and write down that it was refused. */
async function count(
  { db, lockout }: Deps,
  { attempt, status, requestId }: { attempt: Attempt; status: number; requestId: string },
): Promise<void> {
  if (status === 200) {
    lockout.succeeded(attempt);
  } else if (status === 401) {
    lockout.failed(attempt);
    const tenant = { accountId: "", actor: "", ip: attempt.ip, requestId, action: "user.login" };
    const resource = "POST /api/auth/sign-in/email";
    await db.systemTransaction((tx) => insertAudit(tx, { tenant, resource, outcome: "refused" }));
  }
}

function problem(
  status: number,
  body: { code: string; message: string },
  headers: Readonly<Record<string, string>> = {},
): Response {
  return Response.json(body, { status, headers });
}

/** better-auth wraps what breaks beneath it in errors of its own. */
function causeOf(error: Error): Error {
  return error.name === "APIError" && error.cause instanceof Error ? error.cause : error;
}
