import { hash, randomBytes } from "node:crypto";

/** What an opaque token is for: a person's calls, a service's calls, or an invitation. */
export type TokenFamily = "ora" | "svc" | "civ";

const pattern = /^(ora|svc|civ)_[A-Za-z0-9_-]{43}$/;

/** Mint a token of 256 random bits. Only its hash is kept. */
export function mintToken(family: TokenFamily): { token: string; hash: Buffer } {
  const token = `${family}_${randomBytes(32).toString("base64url")}`;
  return { token, hash: hashToken(token) };
}

/** The hash that a token is kept as. Null when the text is no token of the family. */
export function tokenHash(family: TokenFamily, text: string): Buffer | null {
  return pattern.exec(text)?.[1] === family ? hashToken(text) : null;
}

/** Hash a token for look-up. It is random, 190 bits and more, so no salt and no slow hash. */
export function hashToken(token: string): Buffer {
  return hash("sha256", token, "buffer");
}
