import { Code, ConnectError } from "@connectrpc/connect";
import { insertAudit } from "../audit/store.ts";
import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import type { Call } from "../rpc/call.ts";
import { refusedActionOf } from "./auth-audit.ts";
import { type AuthRequest, type AuthRequests, clientIpHeader, noRequest } from "./auth-request.ts";
import type { AuthRoute } from "./auth-routes.ts";
import type { Attempt, Lockout } from "./lockout.ts";
import { findLogin } from "./login-store.ts";
import { isFromOwnPage, isJson } from "./own-pages.ts";
import { attemptOf } from "./sign-in.ts";
import { findPerson } from "./store.ts";

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
    const path = route.alias ?? route.path;
    const about: AuthRequest = { ...noRequest(), ip, requestId, path };
    const guesses = await watchGuesses(deps, { about, request });
    if ("refusal" in guesses) {
      return guesses.refusal;
    }
    const inner = toInner(request, { route, ip, origins: deps.origins() });
    const { handler } = await deps.auth();
    const response = await deps.requests.run(about, () => handler(inner));
    const refusal = await guesses.count(response);
    if (refusal !== undefined) {
      return refusal;
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

/** What became of a password or a code is known when better-auth has answered. */
interface Guesses {
  /** Count a wrong one, and write down that it was refused. Returns what is answered instead, if anything is. */
  count(response: Response): Promise<Response | undefined>;
}

/** Have whoever guesses passwords wait: before a sign-in, and before whoever is signed in shows theirs once more. */
async function watchGuesses(
  { db, lockout, now }: Deps,
  { about, request }: { about: AuthRequest; request: Request },
): Promise<Guesses | { refusal: Response }> {
  const isSignIn = about.path === "/sign-in/email";
  let attempt: Attempt | undefined;
  let refusal: Response | undefined;

  async function check(one: Attempt): Promise<boolean> {
    attempt = one;
    try {
      await lockout.check(one);
    } catch (error) {
      refusal = delayed(error);
    }
    return refusal === undefined;
  }

  if (isSignIn) {
    const name = await emailOf(request);
    const login = await db.systemTransaction((tx) => findLogin(tx, name));
    if (!(await check(attemptOf(login, { name, ip: about.ip, now: now() }))) && refusal) {
      return { refusal };
    }
  } else {
    about.mayCheck = (passwordHash) => {
      const { userId: subject, ip } = about;
      return check({ subject, passwordHash, isSignedIn: true, ip, now: now() });
    };
  }
  return {
    async count(response) {
      if (refusal !== undefined) {
        return refusal;
      }
      if (await isWrongGuess(response, isSignIn)) {
        await (attempt && lockout.failed(attempt));
        await noteRefusal(db, about);
      } else if (response.status === 200 && attempt !== undefined) {
        lockout.succeeded(attempt);
      }
      return undefined;
    },
  };
}

const wrongCodes = new Set(["INVALID_PASSWORD", "INVALID_CODE", "INVALID_BACKUP_CODE"]);

async function isWrongGuess(response: Response, isSignIn: boolean): Promise<boolean> {
  if (isSignIn || (response.status !== 400 && response.status !== 401)) {
    return isSignIn && response.status === 401;
  }
  const body: unknown = await response
    .clone()
    .json()
    .catch(() => null);
  const code = typeof body === "object" && body !== null && "code" in body ? body.code : "";
  return typeof code === "string" && wrongCodes.has(code);
}

/** Write down that a wrong password or code was refused. A sign-in names nobody: whoever tried it was nobody. */
async function noteRefusal(db: Database, about: AuthRequest): Promise<void> {
  const { path, hasSession, ip, requestId } = about;
  const action = refusedActionOf(path, hasSession);
  if (action === undefined) {
    return;
  }
  const resource = `POST /api/auth${path}`;
  const userId = path === "/sign-in/email" ? "" : about.userId;
  await db.systemTransaction(async (tx) => {
    const accountId = userId === "" ? "" : ((await findPerson(tx, userId))?.account_id ?? "");
    const tenant = { accountId, actor: userId, ip, requestId, action };
    await insertAudit(tx, { tenant, resource, outcome: "refused" });
  });
}

/** The answer to whoever has to wait: to a sign-in the same, whether there is such a person or not. */
function delayed(error: unknown): Response {
  if (!(error instanceof ConnectError) || error.code !== Code.ResourceExhausted) {
    throw error;
  }
  const seconds = /(\d+) s$/.exec(error.rawMessage)?.[1] ?? "1";
  const body = { code: "SIGN_IN_DELAYED", message: error.rawMessage };
  return problem(429, body, { "retry-after": seconds });
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
