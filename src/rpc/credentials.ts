import type { HeaderReader } from "./call.ts";

/** The token of `Authorization: Bearer`. Undefined when the header is absent or of another scheme. */
export function bearerToken(header: HeaderReader): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(header.get("authorization") ?? "")?.[1];
}

/** The API key of a call: `X-API-Key`, else the bearer token. */
export function apiKeyOf(header: HeaderReader): string | undefined {
  return header.get("x-api-key") ?? bearerToken(header);
}

/** Whether a call brings a key or a token, good or bad. Cookies, which we sign, are not asked about. */
export function hasCredential(header: HeaderReader): boolean {
  return header.get("x-api-key") !== null || header.get("authorization") !== null;
}
