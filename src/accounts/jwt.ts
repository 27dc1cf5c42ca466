import { createSecretKey, hkdfSync } from "node:crypto";
import { errors, jwtVerify, SignJWT } from "jose";

/** How long a signed token, and the session that it names, lasts. */
export const jwtSeconds = 15 * 60;

/** Who issues our tokens, and for whom. */
export const jwtIssuer = "callora";

const algorithm = "HS256";

/** What a token says: who signed in, and by which session. */
export interface JwtClaims {
  userId: string;
  sessionId: string;
}

/** Signs and checks the tokens of sessions. */
export interface JwtKeeper {
  sign(claims: JwtClaims, now: Date): Promise<string>;
  /** Null for every token that is not one of ours, whole and in its time. */
  verify(token: string, now: Date): Promise<JwtClaims | null>;
}

/** A keeper whose key is derived from the server's secret: every process of a deployment has the same. */
export function createJwtKeeper(secretKey: string): JwtKeeper {
  const derive = (info: string, bytes: number) =>
    Buffer.from(hkdfSync("sha256", secretKey, "", info, bytes));
  const key = createSecretKey(derive("callora jwt key v1", 32));
  const kid = derive("callora jwt key id v1", 8).toString("hex");

  return {
    sign({ userId, sessionId }, now) {
      const seconds = Math.floor(now.getTime() / 1000);
      return new SignJWT({ sid: sessionId })
        .setProtectedHeader({ alg: algorithm, typ: "JWT", kid })
        .setIssuer(jwtIssuer)
        .setAudience(jwtIssuer)
        .setSubject(userId)
        .setIssuedAt(seconds)
        .setExpirationTime(seconds + jwtSeconds)
        .sign(key);
    },
    async verify(token, now) {
      try {
        const { payload, protectedHeader } = await jwtVerify(token, key, {
          algorithms: [algorithm],
          typ: "JWT",
          issuer: jwtIssuer,
          audience: jwtIssuer,
          requiredClaims: ["exp", "sub", "sid"],
          currentDate: now,
        });
        const { sub, sid } = payload;
        const isWhole = typeof sub === "string" && typeof sid === "string";
        return isWhole && protectedHeader.kid === kid ? { userId: sub, sessionId: sid } : null;
      } catch (error) {
        if (error instanceof errors.JOSEError) {
          return null;
        }
        throw error;
      }
    },
  };
}
