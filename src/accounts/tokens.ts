import { timestampDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type AuthService,
  CreateTokenResponseSchema,
} from "../../gen/callora/accounts/v1/auth_service_pb.ts";
import type { Database, Tenant } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Trust } from "../db/trust.ts";
import { newId } from "../lib/id.ts";
import { failedPrecondition, notFound, permissionDenied, unauthenticated } from "../rpc/errors.ts";
import { type Credential, personalTenant, requireUser } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { optionalTime, toToken } from "./shown.ts";
import { holdPerson } from "./store.ts";
import { mintToken } from "./token.ts";
import {
  countTokens,
  insertToken,
  isCredentialLive,
  listTokens,
  revokeToken,
} from "./token-store.ts";

interface Deps {
  db: Database;
  trust: Trust;
  now: () => Date;
}

/** The tokens of one person that are good for something at a time. */
const tokensMax = 100;
/** The longest that a token lasts whose maker another issuer vouched for: nobody asks that issuer again. */
const externalMs = 24 * 60 * 60 * 1000;

/** Revoke a person's token, and wait until no process takes it any more. Throws NOT_FOUND without one. */
export async function revokeTokenOf(
  { db, trust, now }: Deps,
  tenant: Tenant,
  token: { accountId: string; userId: string; id: string },
): Promise<void> {
  const change =
    tenant.accountId === token.accountId ? db.tenantTransaction : db.platformTransaction;
  const epoch = await change(tenant, async (tx, audit) => {
    const row = await revokeToken(tx, { ...token, now: now() });
    if (row === null) {
      throw notFound("the token");
    }
    audit.record(`token:${row.id}`);
    return trust.announce(tx, "token", [row.token_hash.toString("hex")]);
  });
  await trust.settled(epoch);
}

/** The handlers of AuthService that are about the caller's own API tokens. */
export function tokenHandlers(
  deps: Deps,
): Pick<ServiceImpl<typeof AuthService>, "createToken" | "listTokens" | "revokeToken"> {
  const { db, now } = deps;
  return {
    async createToken(req, ctx) {
      const tenant = personalTenant(ctx);
      const { accountId, actor: userId } = tenant;
      const { credential, credentialId } = requireUser(ctx);
      refuseTokens(credential);
      const retry = retryOf(ctx);
      const { token, hash } = mintToken("ora");
      return db.tenantTransaction(tenant, async (tx, audit) => {
        // Whoever ends all of a person's credentials would not end one that comes after them.
        const isActive = await holdPerson(tx, { accountId, userId });
        if (!isActive || !(await isCredentialLive(tx, { accountId, userId, id: credentialId }))) {
          throw unauthenticated();
        }
        const scope = { accountId, retry, response: CreateTokenResponseSchema, audit };
        return once(tx, scope, async () => {
          if ((await countTokens(tx, { accountId, userId, now: now() })) >= tokensMax) {
            const message = `Cannot make a token: the person has ${tokensMax}, the most`;
            throw failedPrecondition("TOKENS_MAX", message);
          }
          const asked = req.expireTime === undefined ? null : timestampDate(req.expireTime);
          const expireAt = boundedEnd(asked, { credential, now: now() });
          const id = newId("tok", now());
          const row = await insertToken(tx, {
            accountId,
            id,
            userId,
            name: req.name,
            hash,
            expireAt,
          });
          audit.record(`token:${id}`);
          return {
            id,
            name: row.name,
            token,
            createTime: timestampFromMs(row.created_at),
            ...optionalTime("expireTime", row.expire_at),
          };
        });
      });
    },

    async listTokens(_req, ctx) {
      const { homeAccountId: accountId, id: userId } = requireUser(ctx);
      const { rows, total } = await db.tenantRead(accountId, (tx) =>
        listTokens(tx, { accountId, userId, now: now() }),
      );
      return { tokens: rows.map(toToken), total };
    },

    async revokeToken({ tokenId }, ctx) {
      const tenant = personalTenant(ctx);
      const { accountId, actor: userId } = tenant;
      await revokeTokenOf(deps, tenant, { accountId, userId, id: tokenId });
      return { status: "success", message: "Token revoked" };
    },
  };
}

/** Throws when the credential is a token: what it makes would outlive its end and its revocation. */
function refuseTokens(credential: Credential): void {
  if (credential === "token") {
    const message = "Cannot make a token: sign in, an API token makes no other";
    throw permissionDenied("CREDENTIAL_CANNOT_MINT", message);
  }
}

function boundedEnd(
  asked: Date | null,
  { credential, now }: { credential: Credential; now: Date },
): Date | null {
  if (credential !== "external") {
    return asked;
  }
  const latest = new Date(now.getTime() + externalMs);
  return asked === null || asked > latest ? latest : asked;
}
