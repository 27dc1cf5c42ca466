import { durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { KeyState, Mode } from "../../gen/callora/keys/v1/key_pb.ts";
import {
  CreateKeyResponseSchema,
  type KeyService,
  RotateKeyResponseSchema,
} from "../../gen/callora/keys/v1/key_service_pb.ts";
import type { Database, Tenant } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { alreadyExists, failedPrecondition, notFound } from "../rpc/errors.ts";
import type { Limiter } from "../rpc/limiter.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { changeKeys } from "./forget.ts";
import { toKey } from "./message.ts";
import { changedFields, mergeRules, quotaOf, refuseHeavy, rulesOf, rulesOfRow } from "./rules.ts";
import { mintSecret } from "./secret.ts";
import {
  countLiveKeys,
  deleteKey,
  existsOverlap,
  existsReplaced,
  findKey,
  findKeyForUpdate,
  insertKey,
  type KeyRow,
  listFamilyHashes,
  listKeys,
  markRotated,
  type NewKey,
  revokeKey,
  revokeKeysForApi,
  updateKey,
  updateKeyState,
  upsertQuota,
} from "./store.ts";
import { keyTopic, type Verifier } from "./verify.ts";
import { verifyHandler } from "./verify-handler.ts";

interface Deps {
  db: Database;
  trust: Trust;
  verifier: Verifier;
  limiter: Limiter;
  /** Whether an API is published. Keys are made for those alone. */
  existsPublishedApi: (tx: Tx, apiId: string) => Promise<boolean>;
  now: () => Date;
}

const liveKeysMax = 1_000;

/** The handlers of proto/callora/keys/v1/key_service.proto. */
export function keyService(deps: Deps): ServiceImpl<typeof KeyService> {
  return { ...readers(deps), ...makers(deps), ...changers(deps), ...enders(deps) };
}

function readers(deps: Deps): Pick<ServiceImpl<typeof KeyService>, Reading> {
  const { db } = deps;
  return {
    async listKeys(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const mode = req.mode === Mode.UNSPECIFIED ? "" : modeOf(req.mode);
      const states = req.states.map((state) => stateOf[state] ?? "");
      const filter = { accountId, apiId: req.apiId, mode, states };
      const rows = await db.tenantRead(accountId, (tx) =>
        listKeys(tx, filter, { after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { keys: page.map(toKey), nextPageToken };
    },

    async getKey({ keyId }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      return { key: toKey(await db.tenantRead(accountId, (tx) => getKey(tx, accountId, keyId))) };
    },

    verifyKey: verifyHandler(deps),
  };
}

function makers(deps: Deps): Pick<ServiceImpl<typeof KeyService>, Making> {
  const { db, now } = deps;
  return {
    async createKey(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const retry = retryOf(ctx);
      const mode = modeOf(req.mode);
      const secret = mintSecret(mode);
      const id = newId("key", now());
      const apiId = req.apiId === "" ? null : req.apiId;
      const { actor } = tenant;
      const maker = { userId: actor, createdBy: actor };
      const owner = { accountId, id, familyId: id, ...maker, apiId, mode };
      refuseHeavy(req);
      const key = { ...owner, ...rulesOf(req), ...secret, state: "active" as const };
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const scope = { accountId, retry, response: CreateKeyResponseSchema, audit };
        return once(tx, scope, async () => {
          await checkRoom(deps, tx, key);
          await insertOrRefuse(tx, key);
          const quota = quotaOf(req.quota);
          if (quota !== null) {
            await upsertQuota(tx, { accountId, familyId: id, now: now() }, quota);
          }
          audit.record(`api_key:${id}`);
          return { key: toKey(await getKey(tx, accountId, id)), secret: secret.plain };
        });
      });
    },

    async rotateKey(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const { keyId } = req;
      const overlapMs = req.overlap === undefined ? 0 : durationMs(req.overlap);
      const retry = retryOf(ctx);
      return changeKeys(deps, { tenant, topic: keyTopic }, async (tx, audit, forget) => {
        const old = await lockKey(tx, accountId, keyId);
        const { family_id: familyId } = old;
        const scope = { accountId, retry, response: RotateKeyResponseSchema, audit };
        const answer = await once(tx, scope, async () => {
          const made = await replaceKey(tx, tenant, { old, overlapMs, now: now() });
          audit.record(`api_key:${keyId}`, `rotated to ${made.id}`);
          const [key, oldKey] = [
            await getKey(tx, accountId, made.id),
            await getKey(tx, accountId, keyId),
          ];
          return { key: toKey(key), secret: made.plain, oldKey: toKey(oldKey) };
        });
        forget(await listFamilyHashes(tx, { accountId, familyId, keyId, now: now() }));
        return answer;
      });
    },
  };
}

function changers(deps: Deps): Pick<ServiceImpl<typeof KeyService>, Changing> {
  const { now } = deps;
  return {
    async updateKey(req, ctx) {
      const fields = changedFields(req);
      return changeKey(deps, ctx, req.keyId, async (tx, row) => {
        if ([...fields].some((field) => field !== "display_name")) {
          refuseRevoked(row);
        }
        const at = { accountId: row.account_id, keyId: row.id, now: now() };
        const rules = mergeRules(rulesOfRow(row), rulesOf(req), fields);
        if (fields.has("scopes") || fields.has("metadata")) {
          refuseHeavy(rules);
        }
        await updateKey(tx, at, rules);
        if (fields.has("quota")) {
          await upsertQuota(tx, { ...at, familyId: row.family_id }, quotaOf(req.quota));
        }
      });
    },

    async disableKey({ keyId }, ctx) {
      return changeKey(deps, ctx, keyId, (tx, row) => setState(tx, row, "disabled", now()));
    },

    async enableKey({ keyId }, ctx) {
      return changeKey(deps, ctx, keyId, (tx, row) => setState(tx, row, "active", now()));
    },

    async revokeKey({ keyId }, ctx) {
      return changeKey(deps, ctx, keyId, async (tx, { account_id: accountId }) => {
        await revokeKey(tx, { accountId, keyId, now: now() });
      });
    },
  };
}

function enders(deps: Deps): Pick<ServiceImpl<typeof KeyService>, Ending> {
  const { now } = deps;
  return {
    async revokeKeyForApi({ apiId }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return changeKeys(deps, { tenant, topic: keyTopic }, async (tx, audit, forget) => {
        const revoked = await revokeKeysForApi(tx, { accountId, apiId, now: now() });
        if (revoked.length === 0) {
          throw notFound("a live key for the API");
        }
        forget(revoked.map(({ hash }) => hash));
        const keys: ReturnType<typeof toKey>[] = [];
        for (const { id } of revoked) {
          audit.record(`api_key:${id}`);
          keys.push(toKey(await getKey(tx, accountId, id)));
        }
        return { keys };
      });
    },

    async deleteKey({ keyId }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return changeKeys(deps, { tenant, topic: keyTopic }, async (tx, audit, forget) => {
        const deleted = await deleteKey(tx, { accountId, keyId, now: now() });
        if (deleted === null) {
          throw notFound("the key");
        }
        forget([deleted.hash]);
        audit.record(`api_key:${keyId}`);
        return {};
      });
    },
  };
}

type Reading = "listKeys" | "getKey" | "verifyKey";
type Making = "createKey" | "rotateKey";
type Changing = "updateKey" | "disableKey" | "enableKey" | "revokeKey";
type Ending = "revokeKeyForApi" | "deleteKey";

/** Change one of the caller's keys, and wait until no process acts on what it was. */
function changeKey(
  deps: Deps,
  ctx: HandlerContext,
  keyId: string,
  work: (tx: Tx, row: KeyRow) => Promise<void>,
) {
  const tenant = requireTenant(ctx);
  const { accountId } = tenant;
  return changeKeys(deps, { tenant, topic: keyTopic }, async (tx, audit, forget) => {
    const row = await lockKey(tx, accountId, keyId);
    await work(tx, row);
    const family = { accountId, familyId: row.family_id, keyId, now: deps.now() };
    forget(await listFamilyHashes(tx, family));
    audit.record(`api_key:${keyId}`);
    return { key: toKey(await getKey(tx, accountId, keyId)) };
  });
}

async function checkRoom(deps: Deps, tx: Tx, key: NewKey): Promise<void> {
  const { accountId, apiId, mode } = key;
  if (apiId !== null && !(await deps.existsPublishedApi(tx, apiId))) {
    throw notFound("the API");
  }
  if ((await countLiveKeys(tx, accountId)) >= liveKeysMax) {
    const message = `Cannot create the key: the account has ${liveKeysMax} live keys`;
    throw failedPrecondition("KEYS_EXHAUSTED", message);
  }
  // Else one key after another could be replaced, and its successor revoked, each with budgets of its own.
  if (await existsReplaced(tx, { accountId, apiId, mode, now: deps.now() })) {
    throw keyExists(key);
  }
}

async function insertOrRefuse(tx: Tx, key: NewKey): Promise<void> {
  if (!(await insertKey(tx, key))) {
    throw keyExists(key);
  }
}

function keyExists({ mode }: NewKey) {
  const message = `Cannot create the key: the account has a ${mode} key for the API, which was not revoked`;
  return alreadyExists("KEY_EXISTS", message);
}

/** Replace a locked key by a new one with the same rules. */
async function replaceKey(
  tx: Tx,
  { accountId, actor }: Tenant,
  { old, overlapMs, now }: { old: KeyRow; overlapMs: number; now: Date },
): Promise<{ id: string; plain: string }> {
  const { id: keyId, family_id: familyId, created_by: createdBy, api_id: apiId, mode, state } = old;
  await refuseRotation(tx, old, now);
  const secret = mintSecret(mode);
  const id = newId("key", now);
  const until = new Date(now.getTime() + overlapMs);
  await markRotated(tx, { accountId, keyId, rotatedTo: id, until, now });
  const owner = { accountId, id, familyId, userId: actor, createdBy, apiId, mode, state };
  await insertOrRefuse(tx, { ...owner, ...rulesOfRow(old), ...secret });
  return { id, plain: secret.plain };
}

async function refuseRotation(tx: Tx, old: KeyRow, now: Date): Promise<void> {
  refuseRevoked(old);
  const refuse = (reason: string, why: string) =>
    failedPrecondition(reason, `Cannot rotate the key: ${why}`);
  if (old.rotated_to !== null) {
    throw refuse("KEY_ROTATED", `${old.rotated_to} replaces it already`);
  }
  if (old.expire_at !== null && old.expire_at <= now.getTime()) {
    throw refuse("KEY_EXPIRED", "its time is over");
  }
  const family = { accountId: old.account_id, familyId: old.family_id, now };
  if (await existsOverlap(tx, family)) {
    throw refuse("ROTATION_IN_PROGRESS", "the key that it replaces is still accepted");
  }
}

async function setState(tx: Tx, row: KeyRow, state: KeyRow["state"], now: Date): Promise<void> {
  refuseRevoked(row);
  await updateKeyState(tx, { accountId: row.account_id, keyId: row.id, state, now });
}

function refuseRevoked({ revoked_at: revokedAt }: KeyRow): void {
  if (revokedAt !== null) {
    throw failedPrecondition("KEY_REVOKED", "Cannot change the key: it was revoked");
  }
}

async function lockKey(tx: Tx, accountId: string, keyId: string): Promise<KeyRow> {
  return found(await findKeyForUpdate(tx, accountId, keyId));
}

async function getKey(tx: Tx, accountId: string, keyId: string): Promise<KeyRow> {
  return found(await findKey(tx, accountId, keyId));
}

function found(row: KeyRow | null): KeyRow {
  if (row === null) {
    throw notFound("the key");
  }
  return row;
}

function modeOf(mode: Mode): KeyRow["mode"] {
  return mode === Mode.TEST ? "test" : "live";
}

const stateOf: Readonly<Record<number, KeyRow["state"] | "revoked" | "">> = {
  [KeyState.UNSPECIFIED]: "",
  [KeyState.ACTIVE]: "active",
  [KeyState.DISABLED]: "disabled",
  [KeyState.REVOKED]: "revoked",
} satisfies Record<KeyState, KeyRow["state"] | "revoked" | "">;
