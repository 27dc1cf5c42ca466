import { createRemoteJWKSet, customFetch, type JWTVerifyGetKey } from "jose";
import { z } from "zod";

/** Where an issuer's keys are. */
export interface KeySource {
  issuer: string;
  /** Undefined: where the issuer's OpenID configuration says. */
  jwksUrl: string | undefined;
}

/** Longer answers are no key sets. */
const bodyBytesMax = 256 * 1024;
const timeoutMs = 3_000;
/** How long keys are taken as they are. */
const freshMs = 10 * 60_000;
/** How long keys that could not be fetched again are still taken. */
const staleMs = 24 * 60 * 60_000;

/**
 * The keys of an issuer, fetched when they are needed.
 *
 * A key that is not known is looked for at most every `cooldownMs`, and so is an issuer that did not answer: until
 * then its last keys hold, or, when it never answered, calls fail at once. Throws when the keys cannot be had.
 */
export function createKeySet(
  source: KeySource,
  { cooldownMs, now }: { cooldownMs: number; now: () => Date },
): JWTVerifyGetKey {
  let last: { body: string; at: number } | undefined;
  let failedAt = Number.NEGATIVE_INFINITY;
  let jwksUrl = source.jwksUrl;

  async function load(signal: AbortSignal): Promise<string> {
    jwksUrl ??= await discover(source.issuer, signal);
    const body = await fetchText(jwksUrl, signal);
    keySet.parse(JSON.parse(body));
    return body;
  }

  /** The last keys, if they are not too old. Throws otherwise. */
  function fallback(cause?: unknown): string {
    if (last !== undefined && now().getTime() - last.at < staleMs) {
      return last.body;
    }
    throw new Error(`Cannot fetch the keys of ${source.issuer}`, { cause });
  }

  async function bodyOf(signal: AbortSignal): Promise<string> {
    if (now().getTime() - failedAt < cooldownMs) {
      return fallback();
    }
    try {
      const body = await load(signal);
      last = { body, at: now().getTime() };
      return body;
    } catch (cause) {
      failedAt = now().getTime();
      return fallback(cause);
    }
  }

  // The address is only a name here: the fetch below knows better.
  return createRemoteJWKSet(new URL(source.issuer), {
    timeoutDuration: timeoutMs,
    cooldownDuration: cooldownMs,
    cacheMaxAge: freshMs,
    [customFetch]: async (_url, { signal }) => new Response(await bodyOf(signal)),
  });
}

const keySet = z.object({ keys: z.array(z.looseObject({ kty: z.string() })) });
const configuration = z.object({ issuer: z.string(), jwks_uri: z.string() });

async function discover(issuer: string, signal: AbortSignal): Promise<string> {
  const base = issuer.replace(/\/$/, "");
  const text = await fetchText(`${base}/.well-known/openid-configuration`, signal);
  const found = configuration.parse(JSON.parse(text));
  if (found.issuer !== issuer) {
    throw new Error(`Cannot use the configuration of ${issuer}: it is of another issuer`);
  }
  if (new URL(found.jwks_uri).protocol !== new URL(issuer).protocol) {
    throw new Error(`Cannot use the configuration of ${issuer}: its keys are elsewhere`);
  }
  return found.jwks_uri;
}

async function fetchText(url: string, signal: AbortSignal): Promise<string> {
  const response = await fetch(url, {
    signal,
    redirect: "error",
    headers: { accept: "application/json" },
  });
  if (response.status !== 200 || response.body === null) {
    await response.body?.cancel();
    throw new Error(`Cannot fetch ${url}: status ${response.status}`);
  }
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body) {
    bytes += chunk.byteLength;
    if (bytes > bodyBytesMax) {
      throw new Error(`Cannot fetch ${url}: it has more than ${bodyBytesMax} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
