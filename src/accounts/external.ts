import { decodeJwt, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from "jose";
import type { Database } from "../db/database.ts";
import type { Call } from "../rpc/call.ts";
import { bearerToken } from "../rpc/credentials.ts";
import { unavailable } from "../rpc/errors.ts";
import { findOrCreatePerson } from "./identity.ts";
import { createKeySet } from "./jwks.ts";
import type { CredentialReader, SignedIn } from "./people.ts";

/** Who else may say who somebody is. */
export interface ExternalIssuer {
  /** As its tokens name it. */
  readonly issuer: string;
  /** Whom its tokens must be for. Clerk's may name it as the authorized party instead. */
  readonly audience: string;
  readonly kind: "oidc" | "clerk";
  /** Undefined: where the issuer says that its keys are. */
  readonly jwksUrl: string | undefined;
}

/** Never a shared secret, and never nothing: both would let whoever knows the public key sign. */
const algorithms = ["RS256", "ES256", "EdDSA"];

const clockToleranceSeconds = 5;
const cooldownMsDefault = 30_000;
const subjectLengthMax = 255;
const tokenLengthMax = 8_192;
const knownMax = 10_000;

interface Deps {
  db: Database;
  issuers: readonly ExternalIssuer[];
  now: () => Date;
  /** How long an issuer is not asked again for what it did not have or give. */
  cooldownMs?: number;
}

/**
 * Read the tokens of other issuers. Whoever an issuer names for the first time becomes a person.
 *
 * Throws UNAVAILABLE while an issuer whose keys are not known does not answer, for its own tokens alone.
 */
export function externalReader(deps: Deps): CredentialReader {
  const { issuers, now, cooldownMs = cooldownMsDefault } = deps;
  const sources = new Map(
    issuers.map((one) => [
      one.issuer,
      { ...one, keys: createKeySet(keysOf(one), { cooldownMs, now }) },
    ]),
  );
  const userIdOf = createIdentityMemory(deps);

  async function read(call: Call, token: string, source: Source): Promise<SignedIn | undefined> {
    const payload = await verify(token, source, now());
    const subject = payload?.sub ?? "";
    if (payload === null || subject === "" || subject.length > subjectLengthMax) {
      return undefined;
    }
    const userId = await userIdOf(call, source, { ...payload, sub: subject });
    return { userId, credential: "external", credentialId: `${source.issuer}#${subject}` };
  }

  return (call) => {
    const token = bearerToken(call.header) ?? "";
    const source = sources.size === 0 ? undefined : sources.get(issuerOf(token));
    return source === undefined ? undefined : read(call, token, source);
  };
}

/** An issuer, and its keys. */
type Source = ExternalIssuer & { keys: JWTVerifyGetKey };

/** Clerk serves its keys at a fixed place; of others the OpenID configuration says where. */
function keysOf({ issuer, kind, jwksUrl }: ExternalIssuer) {
  const wellKnown = `${issuer.replace(/\/$/, "")}/.well-known/jwks.json`;
  return { issuer, jwksUrl: jwksUrl ?? (kind === "clerk" ? wellKnown : undefined) };
}

/** Whom a token says that it is from, which proves nothing. Empty when it is no token. */
function issuerOf(token: string): string {
  if (token.length > tokenLengthMax || token.split(".").length !== 3) {
    return "";
  }
  try {
    return decodeJwt(token).iss ?? "";
  } catch {
    return "";
  }
}

/** What a token says. Null when it does not hold. */
async function verify(
  token: string,
  { issuer, audience, kind, keys }: Source,
  now: Date,
): Promise<JWTPayload | null> {
  try {
    const { payload } = await jwtVerify(token, keys, {
      algorithms,
      issuer,
      requiredClaims: ["exp", "sub"],
      clockTolerance: clockToleranceSeconds,
      currentDate: now,
    });
    return isFor(payload, audience, kind) ? payload : null;
  } catch (error) {
    if (error instanceof errors.JOSEError) {
      return null;
    }
    const message = "Cannot check the token: its issuer does not answer";
    throw unavailable("ISSUER_UNAVAILABLE", message);
  }
}

/** Clerk's session tokens have no audience; they name the origin that they were made for. */
function isFor({ aud, azp }: JWTPayload, audience: string, kind: ExternalIssuer["kind"]): boolean {
  if (aud === undefined) {
    return kind === "clerk" && azp === audience;
  }
  return Array.isArray(aud) ? aud.includes(audience) : aud === audience;
}

/** Finds whose a subject is. That never changes, so it is remembered; look-ups of the same moment are one. */
function createIdentityMemory(deps: Deps) {
  const known = new Map<string, string>();
  const asked = new Map<string, Promise<string>>();

  async function load(call: Call, source: ExternalIssuer, payload: Named): Promise<string> {
    const { userId } = await findOrCreatePerson(deps, call, {
      identity: { issuer: source.issuer, subject: payload.sub },
      newcomer: {
        email: verifiedEmail(payload),
        accountName: nameOf(payload),
        prefix: source.kind,
      },
    });
    return userId;
  }

  return async (call: Call, source: ExternalIssuer, payload: Named): Promise<string> => {
    const key = JSON.stringify([source.issuer, payload.sub]);
    const remembered = known.get(key);
    if (remembered !== undefined) {
      return remembered;
    }
    const loading = asked.get(key) ?? load(call, source, payload).finally(() => asked.delete(key));
    asked.set(key, loading);
    const userId = await loading;
    known.set(key, userId);
    const oldest = known.size > knownMax ? known.keys().next() : undefined;
    if (oldest?.done === false) {
      known.delete(oldest.value);
    }
    return userId;
  };
}

type Named = JWTPayload & { sub: string };

function verifiedEmail({ email, email_verified: isVerified }: JWTPayload): string {
  const isAddress = typeof email === "string" && /^[^\s@]{1,64}@[^\s@]{1,189}$/.test(email);
  return isAddress && isVerified === true ? email : "";
}

function nameOf({ name, sub }: Named): string {
  const text = typeof name === "string" && name !== "" ? name : sub;
  return text.replace(/[\p{Cc}\p{Cs}]/gu, "").slice(0, 100) || "account";
}
