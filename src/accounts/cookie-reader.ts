import { createHmac, timingSafeEqual } from "node:crypto";
import { bearerToken } from "../rpc/credentials.ts";
import type { Strangers } from "../rpc/strangers.ts";
import { isFromOwnPage, isJson } from "./own-pages.ts";
import type { CredentialReader } from "./people.ts";
import type { Sessions } from "./session-memory.ts";

/** The name of the session cookie. Over HTTPS browsers take one with this prefix only from a secure reply. */
export function sessionCookieName(isSecure: boolean): string {
  return `${isSecure ? "__Secure-" : ""}better-auth.session_token`;
}

/** Methods that change nothing, and have no body that could be JSON. */
const safeMethods = new Set(["GET", "HEAD"]);

/** The tokens that better-auth mints. */
const tokenPattern = /^[A-Za-z0-9]{32}$/;

/**
 * Read a session of better-auth: its token as bearer, or its cookie.
 *
 * Any page can make a browser send cookies. So they count only when one of our own pages sent the request, by its
 * `Origin` or `Sec-Fetch-Site`, and only with JSON, which no form can send. Other credentials go before cookies.
 */
export function cookieReader({
  sessions,
  secret,
  isSecure,
  origins,
  strangers,
  now,
}: {
  sessions: Sessions;
  /** Signs the cookies. */
  secret: string;
  isSecure: () => boolean;
  /** The origins of our own pages. */
  origins: () => ReadonlySet<string>;
  strangers?: Pick<Strangers, "check">;
  now: () => Date;
}): CredentialReader {
  return ({ header, exchange }) => {
    if (header.get("authorization") !== null) {
      const token = bearerToken(header) ?? "";
      const beforeLoad = () => strangers?.check(exchange);
      return tokenPattern.test(token) ? sessions.findByToken(token, now(), beforeLoad) : undefined;
    }
    const cookies = header.get("cookie");
    if (cookies === null) {
      return undefined;
    }
    if (isFromOwnPage(header, origins()) !== true) {
      return undefined;
    }
    if (!safeMethods.has(exchange.method) && !isJson(header)) {
      return undefined;
    }
    const token = signedValue(cookies, sessionCookieName(isSecure()), secret);
    return token === undefined ? undefined : sessions.findByToken(token, now());
  };
}

/** The value of a signed cookie, `value.signature` with an HMAC-SHA256 in base64. Undefined when it is not ours. */
export function signedValue(cookies: string, name: string, secret: string): string | undefined {
  const pair = cookies.split(/; */).find((one) => one.startsWith(`${name}=`));
  const decoded = decodeCookie(pair?.slice(name.length + 1) ?? "");
  const dot = decoded.lastIndexOf(".");
  if (dot < 1) {
    return undefined;
  }
  const value = decoded.slice(0, dot);
  const given = Buffer.from(decoded.slice(dot + 1), "base64");
  const wanted = createHmac("sha256", secret).update(value).digest();
  return given.length === wanted.length && timingSafeEqual(given, wanted) ? value : undefined;
}

function decodeCookie(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}
