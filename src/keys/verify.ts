import { Code } from "@connectrpc/connect";
import type { Database } from "../db/database.ts";
import type { Memory } from "../db/memory.ts";
import type { Trust } from "../db/trust.ts";
import { andThen, type MaybePromise } from "../lib/maybe-promise.ts";
import type { Exchange } from "../rpc/call.ts";
import { apiKeyOf } from "../rpc/credentials.ts";
import { reasoned } from "../rpc/errors.ts";
import { applyVerdict } from "../rpc/limit.ts";
import type { Limit, Limiter, Rate, Verdict } from "../rpc/limiter.ts";
import type { Authenticator, Principal } from "../rpc/principal.ts";
import type { Strangers } from "../rpc/strangers.ts";
import { type Fault, findFault, type Use } from "./judge.ts";
import { type KnownKey, toKnownKey } from "./known-key.ts";
import type { Quotas } from "./quota.ts";
import { hexOfSecret, isSameHash, isWellFormed } from "./secret.ts";
import type { UseLog } from "./use-log.ts";
import { listKeysByHash } from "./use-store.ts";

/** What is remembered of keys, by the hash of their secret in hexadecimal digits. */
export const keyTopic = "api_key";

/** The verdict on a use of a key. */
export type Verification =
  | { code: "NOT_FOUND" }
  | {
      code: "VALID" | Fault | "RATE_LIMITED";
      key: KnownKey;
      /** Null: the key has no quota, or the verdict did not come to it. */
      usesLeft: number | null;
      /** Null: the key has no rate limit, or the verdict did not come to it. */
      rate: Verdict | null;
    };

type KeyPrincipal = Extract<Principal, { kind: "key" }>;
/** Judges keys from memory, and counts their use. */
export interface Verifier {
  /** Judge a secret that was presented, and count the use when it is valid. Not a promise when memory tells. */
  verify(secret: string, use: Use, maySee: (key: KnownKey) => boolean): MaybePromise<Verification>;
  /** Find whose API key `X-API-Key` or the bearer token is. Counts nothing. */
  authenticate: Authenticator;
  /**
   * Count one use of the key of a principal that `authenticate` made. Not a promise when memory tells.
   *
   * Throws or rejects with RESOURCE_EXHAUSTED: with reason RATE_LIMITED, and then says the key's own limit in the
   * reply's headers, or KEY_USAGE_EXCEEDED.
   */
  countNow(principal: KeyPrincipal, exchange: Exchange): MaybePromise<void>;
  /**
   * Whether the key of a principal is still accepted, for what stays open on its word: its use was counted, and asked
   * about its address, when that began. Rejects when nobody knows.
   */
  isAccepted(principal: KeyPrincipal): MaybePromise<boolean>;
  /** Told when isAccepted() may have another answer for some keys. Returns how to stop it. */
  onForgotten(listener: () => void): () => void;
}

interface Deps {
  db: Pick<Database, "systemTransaction">;
  trust: Trust;
  limiter: Limiter;
  quotas: Quotas;
  useLog: UseLog;
  strangers?: Pick<Strangers, "check">;
  now: () => Date;
}

const keysMax = 200_000;

/** Make the verifier of a process. */
export function createVerifier(deps: Deps): Verifier {
  const memory = rememberKeys(deps);
  // One principal for all calls of a key: what a weak map takes up for each costs more than the rest of a look-up.
  const keyOf = new WeakMap<KeyPrincipal, KnownKey>();
  const principalOf = new WeakMap<KnownKey, KeyPrincipal>();
  const toPrincipal = (known: KnownKey) => {
    const { id, familyId, createdBy, accountId, apiId, mode, scopes } = known;
    const owner = { id, familyId, createdBy, accountId };
    const principal: KeyPrincipal = Object.freeze({ kind: "key", ...owner, apiId, mode, scopes });
    keyOf.set(principal, known);
    principalOf.set(known, principal);
    return principal;
  };
  const { useLog, strangers, now } = deps;
  return {
    verify(secret, use, maySee) {
      return andThen(find(memory, secret), (key) =>
        key === null || !maySee(key) ? { code: "NOT_FOUND" } : decide(deps, key, use),
      );
    },

    authenticate({ header, exchange }) {
      const secret = apiKeyOf(header);
      if (secret === undefined) {
        return undefined;
      }
      const beforeLoad = () => strangers?.check(exchange);
      return andThen(find(memory, secret, beforeLoad), (key) => {
        const use = { apiId: null, clientIp: exchange.clientIp, permission: null, cost: 0 };
        const at = now();
        if (key === null || findFault(key, use, at.getTime()) !== null) {
          return undefined;
        }
        useLog.note(key, at);
        return principalOf.get(key) ?? toPrincipal(key);
      });
    },

    isAccepted(principal) {
      const then = known(keyOf, principal);
      return andThen(memory.get(then.hash), (key) => {
        const asked = key === null || key.allowedCidrs.length === 0 ? key : anywhere(key);
        return asked !== null && findFault(asked, anyUse, now().getTime()) === null;
      });
    },

    onForgotten: (listener) => memory.onForgotten(() => listener()),

    countNow(principal, exchange) {
      const key = known(keyOf, principal);
      return andThen(spend(deps, key, 1), (spent) => refuseSpent(spent, exchange, now()));
    },
  };
}

/** Throws what the caller of a call is told that was not counted. */
function refuseSpent({ code, key, rate }: Spent, exchange: Exchange, now: Date): void {
  if (code === "RATE_LIMITED" && rate !== null) {
    // The headers so far are those of the class, which let the call pass.
    applyVerdict(exchange, rate);
  }
  if (code === "USAGE_EXCEEDED") {
    const message = "Cannot use the key: its quota is used up";
    const refillAtMs = key.quota?.refillAtMs ?? null;
    const retry =
      refillAtMs === null ? {} : { retryAfterMs: Math.max(0, refillAtMs - now.getTime()) };
    throw reasoned(Code.ResourceExhausted, { reason: "KEY_USAGE_EXCEEDED", message, ...retry });
  }
}

function anywhere(key: KnownKey): KnownKey {
  return { ...key, allowedCidrs: [] };
}

/** Of a call that goes on: its address and its API were asked about when it began, and it was counted. */
const anyUse: Use = { apiId: null, clientIp: null, permission: null, cost: 0 };

function known(keyOf: WeakMap<KeyPrincipal, KnownKey>, principal: KeyPrincipal): KnownKey {
  const key = keyOf.get(principal);
  if (key === undefined) {
    throw new Error(`Cannot use ${principal.id}: it was not authenticated here`);
  }
  return key;
}

function rememberKeys({ db, trust }: Deps): Memory<KnownKey> {
  return trust.remember(keyTopic, {
    entriesMax: keysMax,
    async load(hashes) {
      const rows = await db.systemTransaction((tx) => listKeysByHash(tx, hashes));
      return new Map(rows.map((row) => [row.hash, toKnownKey(row)]));
    },
  });
}

/** Find the key of a secret. Garbage is told by its checksum, without a look-up. */
function find(
  memory: Memory<KnownKey>,
  secret: string,
  beforeLoad?: () => void,
): MaybePromise<KnownKey | null> {
  if (!isWellFormed(secret)) {
    return null;
  }
  const hash = hexOfSecret(secret);
  return andThen(memory.get(hash, beforeLoad), (key) =>
    key !== null && isSameHash(key.hash, hash) ? key : null,
  );
}

function decide(deps: Deps, key: KnownKey, use: Use): MaybePromise<Verification> {
  const fault = findFault(key, use, deps.now().getTime());
  if (fault !== null) {
    const usesLeft = fault === "USAGE_EXCEEDED" ? (key.quota?.leftMax ?? null) : null;
    return { code: fault, key, usesLeft, rate: null };
  }
  return spend(deps, key, use.cost);
}

/** Take from the rate limits, then from the quota: what is refused by a rate limit uses nothing up. */
function spend(deps: Deps, key: KnownKey, cost: number): MaybePromise<Spent> {
  const limits = limitsOf(key);
  if (limits.length === 0) {
    return takeUses(deps, key, { cost, rate: null });
  }
  return andThen(deps.limiter.take(limits, deps.now()), (rate) =>
    rate.allowed
      ? takeUses(deps, key, { cost, rate })
      : { code: "RATE_LIMITED", key, usesLeft: null, rate },
  );
}

type Spent = Exclude<Verification, { code: "NOT_FOUND" }>;

function takeUses(
  { quotas, useLog, now }: Deps,
  key: KnownKey,
  { cost, rate }: { cost: number; rate: Verdict | null },
): MaybePromise<Spent> {
  const { quota, accountId, familyId } = key;
  if (quota === null) {
    useLog.note(key, now());
    return { code: "VALID", key, usesLeft: null, rate };
  }
  return quotas.take({ accountId, familyId, cost }).then(({ isGranted, left, refillAtMs }) => {
    quota.leftMax = left ?? Number.POSITIVE_INFINITY;
    quota.refillAtMs = refillAtMs;
    if (isGranted) {
      useLog.note(key, now());
    }
    return { code: isGranted ? "VALID" : "USAGE_EXCEEDED", key, usesLeft: left, rate };
  });
}

const minuteMs = 60_000;
const dayMs = 24 * 60 * minuteMs;

/** The limits of a key. Whatever replaces it has the same budgets. */
function limitsOf({ familyId, minuteMax, dayMax }: KnownKey): Limit[] {
  const limits: Limit[] = [];
  if (minuteMax !== null) {
    const rate = rateOf(minuteMs, minuteMax);
    limits.push({ id: `key_minute:${familyId}`, rate, isStrict: true });
  }
  if (dayMax !== null) {
    limits.push({ id: `key_day:${familyId}`, rate: rateOf(dayMs, dayMax), isStrict: true });
  }
  return limits;
}

function rateOf(spanMs: number, callsMax: number): Rate {
  return { intervalMs: spanMs / callsMax, burst: callsMax };
}
