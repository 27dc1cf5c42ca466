import type { Database } from "../db/database.ts";
import { apiKeyOf } from "../rpc/credentials.ts";
import type { Authenticator } from "../rpc/principal.ts";
import { hashSecret, isWellFormed } from "./secret.ts";
import { findKeyByHash, type KeyRow } from "./store.ts";

/** The verdict on a presented key. */
export type Verdict =
  | { code: "NOT_FOUND" }
  | { code: "VALID" | "DISABLED" | "EXPIRED" | "FORBIDDEN"; key: KeyRow };

/**
 * Judge a presented key: known, not revoked, not expired, and for that API (null: any), in this order.
 *
 * Garbage is refused by its checksum, without a look-up.
 */
export async function verifySecret(
  { db, now }: { db: Database; now: () => Date },
  { secret, apiId }: { secret: string; apiId: string | null },
): Promise<Verdict> {
  if (!isWellFormed(secret)) {
    return { code: "NOT_FOUND" };
  }
  const key = await db.systemTransaction((tx) => findKeyByHash(tx, hashSecret(secret)));
  return key === null ? { code: "NOT_FOUND" } : judge(key, { apiId, now: now() });
}

/** Judge a known key. */
export function judge(key: KeyRow, { apiId, now }: { apiId: string | null; now: Date }): Verdict {
  if (key.revoked_at !== null) {
    return { code: "DISABLED", key };
  }
  if (key.expire_at !== null && key.expire_at <= now.getTime()) {
    return { code: "EXPIRED", key };
  }
  if (apiId !== null && apiId !== key.api_id) {
    return { code: "FORBIDDEN", key };
  }
  return { code: "VALID", key };
}

/** Find whose API key `X-API-Key` or the bearer token is. */
export function keyAuthenticator(deps: { db: Database; now: () => Date }): Authenticator {
  return async ({ header }) => {
    const secret = apiKeyOf(header);
    if (secret === undefined) {
      return undefined;
    }
    const verdict = await verifySecret(deps, { secret, apiId: null });
    if (verdict.code !== "VALID") {
      return undefined;
    }
    const { key } = verdict;
    return {
      kind: "key",
      id: key.id,
      accountId: key.account_id,
      apiId: key.api_id,
      mode: key.mode,
      scopes: [],
    };
  };
}
