import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  CreateRouterKeyResponseSchema,
  type RouterKeyService,
} from "../../gen/callora/keys/v1/router_key_service_pb.ts";
import type { Database, Tenant } from "../db/database.ts";
import type { Memory } from "../db/memory.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import { newId } from "../lib/id.ts";
import { failedPrecondition, notFound } from "../rpc/errors.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { changeKeys } from "./forget.ts";
import {
  deleteRouterKey,
  findRouterKey,
  type KnownRouterKey,
  listRouterKeysByHash,
  lockRouterKey,
  type RouterKeyRow,
  updateRouterKey,
  upsertRouterKey,
} from "./router-store.ts";
import { hexOfSecret, isSameHash, isWellFormedRouter, mintRouterSecret } from "./secret.ts";

interface Deps {
  db: Database;
  trust: Trust;
  /** The names of the providers that an account has enabled. */
  enabledProviders: (accountId: string) => Promise<string[]>;
  now: () => Date;
}

/** What is remembered of router keys, by the hash of their secret in hexadecimal digits. */
const routerTopic = "router_key";
const keysMax = 50_000;

/** The handlers of proto/callora/keys/v1/router_key_service.proto. */
export function routerKeyService(deps: Deps): ServiceImpl<typeof RouterKeyService> {
  return { ...makers(deps), ...changers(deps), verifyRouterKey: verifier(deps) };
}

function makers(
  deps: Deps,
): Pick<
  ServiceImpl<typeof RouterKeyService>,
  "getRouterKey" | "createRouterKey" | "regenerateRouterKey"
> {
  const { db, now } = deps;
  return {
    async getRouterKey(_req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const row = await db.tenantRead(accountId, (tx) => findRouterKey(tx, accountId));
      return row === null ? {} : { key: toRouterKey(row) };
    },

    async createRouterKey(_req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const retry = retryOf(ctx);
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const scope = { accountId, retry, response: CreateRouterKeyResponseSchema, audit };
        return once(tx, scope, async () => {
          await lockRouterKey(tx, accountId);
          if ((await findRouterKey(tx, accountId)) !== null) {
            const message = "Cannot create the router key: there is one, regenerate it instead";
            throw failedPrecondition("ROUTER_KEY_EXISTS", message);
          }
          const key = await makeRouterKey(tx, tenant, now());
          audit.record(`router_key:${key.id}`);
          return { key };
        });
      });
    },

    async regenerateRouterKey(_req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return changeKeys(deps, { tenant, topic: routerTopic }, async (tx, audit, forget) => {
        await lockRouterKey(tx, accountId);
        const old = await findRouterKey(tx, accountId);
        const key = await makeRouterKey(tx, tenant, now());
        forget(old === null ? [] : [old.hash]);
        audit.record(`router_key:${key.id}`);
        return { key };
      });
    },
  };
}

function changers(
  deps: Deps,
): Pick<ServiceImpl<typeof RouterKeyService>, "setRouterKeyEnabled" | "deleteRouterKeys"> {
  const { now } = deps;
  return {
    async setRouterKeyEnabled({ enabled = false }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return changeKeys(deps, { tenant, topic: routerTopic }, async (tx, audit, forget) => {
        const row = await lockedKey(tx, accountId);
        await updateRouterKey(tx, accountId, enabled);
        forget([row.hash]);
        audit.record(`router_key:${row.id}`, enabled ? "enabled" : "disabled");
        return { key: toRouterKey({ ...row, enabled }) };
      });
    },

    async deleteRouterKeys(_req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return changeKeys(deps, { tenant, topic: routerTopic }, async (tx, audit, forget) => {
        const row = await lockedKey(tx, accountId);
        await deleteRouterKey(tx, accountId, now());
        forget([row.hash]);
        audit.record(`router_key:${row.id}`);
        return { success: true };
      });
    },
  };
}

function verifier(deps: Deps): ServiceImpl<typeof RouterKeyService>["verifyRouterKey"] {
  const { db, trust, now, enabledProviders } = deps;
  const memory: Memory<KnownRouterKey> = trust.remember(routerTopic, {
    entriesMax: keysMax,
    async load(hashes) {
      const rows = await db.systemTransaction((tx) => listRouterKeysByHash(tx, hashes));
      return new Map(rows.map((row) => [row.hash, row]));
    },
  });
  return async ({ key: secret }) => {
    const hash = hexOfSecret(secret);
    const key = isWellFormedRouter(secret) ? await memory.get(hash) : null;
    if (key === null || !isSameHash(key.hash, hash)) {
      return { error: "Invalid API key." };
    }
    if (!key.enabled) {
      return { error: "API Key is disabled" };
    }
    if (key.expire_at !== null && key.expire_at <= now().getTime()) {
      return { error: "API Key has expired" };
    }
    return { valid: true, providers: await enabledProviders(key.account_id) };
  };
}

async function makeRouterKey(tx: Tx, { accountId, actor }: Tenant, now: Date) {
  const { plain, prefix: start, hash } = mintRouterSecret();
  const id = newId("rky", now);
  await upsertRouterKey(tx, { accountId, id, userId: actor, start, hash, now });
  const row = { id, start, enabled: true, created_at: now.getTime() };
  return { ...toRouterKey(row), value: plain };
}

async function lockedKey(tx: Tx, accountId: string): Promise<RouterKeyRow> {
  await lockRouterKey(tx, accountId);
  const row = await findRouterKey(tx, accountId);
  if (row === null) {
    throw notFound("the router key");
  }
  return row;
}

function toRouterKey({ id, start, enabled, created_at: createdAt }: Omit<RouterKeyRow, "hash">) {
  const createTime = timestampFromMs(createdAt);
  return { id, name: "default", start, prefix: "ef_", enabled, createTime };
}
