import { timestampDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  CreateKeyResponseSchema,
  type KeyService,
  KeyState,
  Mode,
  VerifyCode,
} from "../../gen/callora/keys/v1/key_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { alreadyExists, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { mintSecret } from "./secret.ts";
import { findKey, insertKey, type KeyRow, listKeys, revokeKey, revokeKeysForApi } from "./store.ts";
import { type Verdict, verifySecret } from "./verify.ts";

/** The handlers of proto/callora/keys/v1/key_service.proto. */
export function keyService(deps: {
  db: Database;
  /** Whether an API is published. Keys are made for those alone. */
  existsPublishedApi: (tx: Tx, apiId: string) => Promise<boolean>;
  now: () => Date;
}): ServiceImpl<typeof KeyService> {
  const { db, now } = deps;
  return {
    async listKeys(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const rows = await db.tenantRead(accountId, (tx) =>
        listKeys(tx, { accountId, after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { keys: page.map(toKey), nextPageToken };
    },

    async getKey({ keyId }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const row = await db.tenantRead(accountId, (tx) => findKey(tx, accountId, keyId));
      if (row === null) {
        throw notFound("the key");
      }
      return { key: toKey(row) };
    },

    async createKey(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const retry = retryOf(ctx);
      const mode = req.mode === Mode.TEST ? "test" : "live";
      const secret = mintSecret(mode);
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const scope = { accountId, retry, response: CreateKeyResponseSchema, audit };
        return once(tx, scope, async () => {
          if (!(await deps.existsPublishedApi(tx, req.apiId))) {
            throw notFound("the API");
          }
          const row = await insertKey(tx, {
            accountId,
            id: newId("key", now()),
            userId: tenant.actor,
            apiId: req.apiId,
            mode,
            displayName: req.displayName,
            prefix: secret.prefix,
            hash: secret.hash,
            expireAt: req.expireTime === undefined ? null : timestampDate(req.expireTime),
          });
          if (row === null) {
            const message = `Cannot create the key: the account has a live ${mode} key for the API`;
            throw alreadyExists("KEY_EXISTS", message);
          }
          audit.record(`api_key:${row.id}`);
          return { key: toKey(row), secret: secret.plain };
        });
      });
    },

    async revokeKey({ keyId }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const row = await revokeKey(tx, { accountId, keyId, now: now() });
        if (row === null) {
          throw notFound("the key");
        }
        audit.record(`api_key:${row.id}`);
        return { key: toKey(row) };
      });
    },

    async revokeKeyForApi({ apiId }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const rows = await revokeKeysForApi(tx, { accountId, apiId, now: now() });
        if (rows.length === 0) {
          throw notFound("a live key for the API");
        }
        for (const row of rows) {
          audit.record(`api_key:${row.id}`);
        }
        return { keys: rows.map(toKey) };
      });
    },

    async verifyKey(req) {
      const apiId = req.apiId === "" ? null : req.apiId;
      const verdict = await verifySecret(deps, { secret: req.secret, apiId });
      return {
        valid: verdict.code === "VALID",
        code: codeOf[verdict.code],
        keyId: verdict.code === "NOT_FOUND" ? "" : verdict.key.id,
        accountId: verdict.code === "NOT_FOUND" ? "" : verdict.key.account_id,
      };
    },
  };
}

const codeOf = {
  VALID: VerifyCode.VALID,
  NOT_FOUND: VerifyCode.NOT_FOUND,
  DISABLED: VerifyCode.DISABLED,
  EXPIRED: VerifyCode.EXPIRED,
  FORBIDDEN: VerifyCode.FORBIDDEN,
} satisfies Record<Verdict["code"], VerifyCode>;

const modeOf = { live: Mode.LIVE, test: Mode.TEST } satisfies Record<KeyRow["mode"], Mode>;

function toKey(row: KeyRow) {
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    apiId: row.api_id,
    displayName: row.display_name,
    prefix: row.prefix,
    mode: modeOf[row.mode],
    state: row.revoked_at === null ? KeyState.ACTIVE : KeyState.REVOKED,
    ...(row.expire_at === null ? {} : { expireTime: timestampFromMs(row.expire_at) }),
    ...(row.revoked_at === null ? {} : { revokeTime: timestampFromMs(row.revoked_at) }),
  };
}
