import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import { andThen } from "../lib/maybe-promise.ts";
import { bearerToken } from "../rpc/credentials.ts";
import type { Authenticator, Principal } from "../rpc/principal.ts";
import type { Strangers } from "../rpc/strangers.ts";
import type { LastUses } from "./last-uses.ts";
import type { CredentialReader, SignedIn } from "./people.ts";
import { findServiceTokens, type ServiceTokenRow } from "./service-token-store.ts";
import { tokenHash } from "./token.ts";
import { findTokensByHash, type TokenRow } from "./token-store.ts";

interface Deps {
  db: Database;
  trust: Trust;
  uses: LastUses;
  strangers?: Pick<Strangers, "check">;
  now: () => Date;
}

const tokensMax = 50_000;
const serviceTokensMax = 1_000;

/** Read a person's API token. */
export function tokenReader({ db, trust, uses, strangers, now }: Deps): CredentialReader {
  const tokens = trust.remember<TokenRow>("token", {
    entriesMax: tokensMax,
    async load(keys) {
      const rows = await db.systemTransaction((tx) => findTokensByHash(tx, toHashes(keys)));
      return new Map(rows.map((row) => [row.token_hash.toString("hex"), row]));
    },
  });

  return ({ header, exchange }) => {
    const hash = tokenHash("ora", bearerToken(header) ?? "");
    if (hash === null) {
      return undefined;
    }
    const beforeLoad = () => strangers?.check(exchange);
    return andThen(tokens.get(hash.toString("hex"), beforeLoad), (row): SignedIn | undefined => {
      const at = now();
      const isLive =
        row !== null &&
        row.revoked_at === null &&
        (row.expire_at === null || row.expire_at > at.getTime());
      if (!isLive) {
        return undefined;
      }
      uses.note({ accountId: row.account_id, id: row.id, at });
      return { userId: row.user_id, credential: "token", credentialId: row.id };
    });
  };
}

/** Find the service whose token a call carries. Services act for the platform's account. */
export function serviceAuthenticator({
  db,
  trust,
  uses,
  strangers,
  now,
  accountId,
}: Deps & { accountId: string }): Authenticator {
  const tokens = trust.remember<ServiceTokenRow>("service_token", {
    entriesMax: serviceTokensMax,
    async load(keys) {
      const rows = await db.systemTransaction((tx) => findServiceTokens(tx, toHashes(keys)));
      return new Map(rows.map((row) => [row.token_hash.toString("hex"), row]));
    },
  });

  return ({ header, exchange }) => {
    const hash = tokenHash("svc", bearerToken(header) ?? "");
    if (hash === null) {
      return undefined;
    }
    const beforeLoad = () => strangers?.check(exchange);
    return andThen(tokens.get(hash.toString("hex"), beforeLoad), (row): Principal | undefined => {
      if (row === null || row.revoked_at !== null) {
        return undefined;
      }
      const { id, scopes } = row;
      uses.note({ accountId, id, at: now() });
      return { kind: "service", id, accountId, scopes, mode: "live" };
    });
  };
}

function toHashes(keys: readonly string[]): Buffer[] {
  return keys.map((key) => Buffer.from(key, "hex"));
}
