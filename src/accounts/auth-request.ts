import { AsyncLocalStorage } from "node:async_hooks";
import { hkdfSync } from "node:crypto";

/** The request header that carries the caller's address to better-auth. Set by us, whatever was sent. */
export const clientIpHeader = "x-callora-client-ip";

/** Derive better-auth's secret from the server's: what one of them signs means nothing to the other. */
export function authSecret(secretKey: string): string {
  const derived = hkdfSync("sha256", secretKey, "", "callora better-auth", 32);
  return Buffer.from(derived).toString("base64url");
}

/** What is known of the request that better-auth serves, wherever it reads or writes. */
export interface AuthRequest {
  ip: string;
  requestId: string;
  /** Below /api/auth, for example `/sign-in/email`. */
  path: string;
  /** The tokens that the request brought or made, by their hash in hex: the database does not know them. */
  tokens: Map<string, string>;
  /** Whether the request brought a session that lasts. */
  hasSession: boolean;
  /** Whom the request is about, as far as it was looked up. Empty: nobody so far. */
  userId: string;
  /** Asked before the person's password is checked, with its hash. False: it is not looked at. */
  mayCheck: ((passwordHash: string) => Promise<boolean>) | undefined;
  /** The hash of the password that the request signs in by. Undefined: it does not, or was not right so far. */
  passwordHash: string | undefined;
  /** The last announcement that the reply has to wait for. */
  epoch: bigint;
  /** What broke, and must not be shown. */
  failure: unknown;
}

/** Carries the request to where better-auth reads and writes. */
export type AuthRequests = AsyncLocalStorage<AuthRequest>;

/** Make the carrier. */
export function createAuthRequests(): AuthRequests {
  return new AsyncLocalStorage();
}

/** What is known of a request where there is none. */
export function noRequest(): AuthRequest {
  const about = { ip: "", requestId: "", path: "", tokens: new Map<string, string>() };
  const unknown = { userId: "", mayCheck: undefined, passwordHash: undefined };
  return { ...about, ...unknown, hasSession: false, epoch: 0n, failure: undefined };
}
