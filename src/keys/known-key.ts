import type { Mode } from "./secret.ts";
import type { KnownKeyRow } from "./use-store.ts";

/**
 * What a process remembers of a key: all that a verdict needs, in less than 1 KB but for long scopes, addresses and
 * metadata, which are 4 KB at most.
 *
 * Its rules never change: a change makes a new one. What it has been told of its use does.
 */
export interface KnownKey {
  /** Of the secret, in hexadecimal digits. */
  readonly hash: string;
  readonly id: string;
  readonly accountId: string;
  /** Null: every API. */
  readonly apiId: string | null;
  readonly mode: Mode;
  /** Revoked or disabled. */
  readonly isDisabled: boolean;
  /** When it is over, by its own time or by the end of its rotation. Null: never. */
  readonly expireAtMs: number | null;
  readonly scopes: readonly string[];
  /** Empty: every address. */
  readonly allowedCidrs: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  /** What the quota and the rate limits hang on: a rotation does not change it. */
  readonly familyId: string;
  /** The member who made it, or the first of its rotations. Empty: nobody knows. */
  readonly createdBy: string;
  /** Null: not limited. */
  readonly minuteMax: number | null;
  readonly dayMax: number | null;
  /** Null: no quota. */
  readonly quota: KnownQuota | null;
  /** When its use was last noted. */
  notedAtMs: number;
}

/** What a process knows of a quota. Others use it too, so it is an upper bound. */
export interface KnownQuota {
  leftMax: number;
  /** From when on the bound does not hold, because of a refill. Null: never. */
  refillAtMs: number | null;
}

/** What is remembered of a row. */
export function toKnownKey(row: KnownKeyRow): KnownKey {
  return {
    hash: row.hash,
    id: row.id,
    accountId: row.account_id,
    apiId: row.api_id,
    mode: row.mode,
    isDisabled: row.is_disabled,
    expireAtMs: row.expire_at,
    scopes: row.scopes.length === 0 ? none : row.scopes,
    allowedCidrs: row.allowed_cidrs.length === 0 ? none : row.allowed_cidrs,
    metadata: Object.keys(row.metadata).length === 0 ? blank : row.metadata,
    familyId: row.family_id === row.id ? row.id : row.family_id,
    createdBy: row.created_by,
    minuteMax: row.rate_limit_per_minute,
    dayMax: row.rate_limit_per_day,
    quota:
      row.uses_left === null ? null : { leftMax: Number(row.uses_left), refillAtMs: row.refill_at },
    notedAtMs: 0,
  };
}

// Most keys have none of these: they share one.
const none: readonly string[] = Object.freeze([]);
const blank: Readonly<Record<string, string>> = Object.freeze({});
