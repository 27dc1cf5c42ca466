import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { type KeyQuota, QuotaRefill } from "../../gen/callora/keys/v1/key_pb.ts";
import type { UpdateKeyRequest } from "../../gen/callora/keys/v1/key_service_pb.ts";
import { invalidArgument } from "../rpc/errors.ts";
import type { KeyRow, KeyRules, QuotaRules } from "./store.ts";

/** The rules that a request states. */
export function rulesOf(req: Stated): KeyRules {
  return {
    displayName: req.displayName,
    expireAt: req.expireTime === undefined ? null : timestampDate(req.expireTime),
    scopes: req.scopes,
    allowedCidrs: req.allowedCidrs,
    rateLimitPerMinute: limitOf(req.rateLimitPerMinute),
    rateLimitPerDay: limitOf(req.rateLimitPerDay),
    metadata: req.metadata,
  };
}

/** The most that a key's scopes and metadata take together: processes keep hundreds of thousands of keys in memory. */
const weightBytesMax = 2_048;

/** Throws INVALID_ARGUMENT when the scopes and the metadata of a key are too much together. */
export function refuseHeavy({ scopes, metadata }: Pick<KeyRules, "scopes" | "metadata">): void {
  const texts = [...scopes, ...Object.entries(metadata).flat()];
  const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  if (bytes > weightBytesMax) {
    const description = `and scopes take ${bytes} bytes together, more than ${weightBytesMax}`;
    throw invalidArgument([{ field: "metadata", description }]);
  }
}

/** The rules that a key has. */
export function rulesOfRow(row: KeyRow): KeyRules {
  return {
    displayName: row.display_name,
    expireAt: row.expire_at === null ? null : new Date(row.expire_at),
    scopes: row.scopes,
    allowedCidrs: row.allowed_cidrs,
    rateLimitPerMinute: row.rate_limit_per_minute,
    rateLimitPerDay: row.rate_limit_per_day,
    metadata: row.metadata,
  };
}

/** The quota that a request states. Null: none. */
export function quotaOf(quota: KeyQuota | undefined): QuotaRules | null {
  if (quota === undefined) {
    return null;
  }
  const { usesMax, refill, refillDay } = quota;
  return {
    usesMax,
    refill: refillOf[refill] ?? "none",
    refillDay: refillDay === 0 ? 1 : refillDay,
  };
}

/** A field of a key that can be changed, by its name in the contract. */
export type KeyField = (typeof keyFields)[number];

const keyFields = [
  "display_name",
  "expire_time",
  "scopes",
  "allowed_cidrs",
  "rate_limit_per_minute",
  "rate_limit_per_day",
  "quota",
  "metadata",
] as const;

/**
 * The fields that a request changes: those in its mask, else those that are set.
 *
 * Throws INVALID_ARGUMENT when there is none, or the mask names something else.
 */
export function changedFields(req: UpdateKeyRequest): ReadonlySet<KeyField> {
  const masked = req.updateMask?.paths ?? [];
  const fields = masked.length > 0 ? keyFields.filter((field) => masked.includes(field)) : set(req);
  const isUnknown = masked.some((path) => !keyFields.some((field) => field === path));
  if (isUnknown || fields.length === 0) {
    const description = `must name fields to change, of ${keyFields.join(", ")}`;
    throw invalidArgument([{ field: "update_mask", description }]);
  }
  return new Set(fields);
}

/** The rules that a key has once the fields are changed. */
export function mergeRules(
  before: KeyRules,
  after: KeyRules,
  fields: ReadonlySet<KeyField>,
): KeyRules {
  const rules = { ...before };
  for (const [field, name] of Object.entries(ruleOf) as [KeyField, keyof KeyRules][]) {
    if (fields.has(field)) {
      Object.assign(rules, { [name]: after[name] });
    }
  }
  return rules;
}

const ruleOf = {
  display_name: "displayName",
  expire_time: "expireAt",
  scopes: "scopes",
  allowed_cidrs: "allowedCidrs",
  rate_limit_per_minute: "rateLimitPerMinute",
  rate_limit_per_day: "rateLimitPerDay",
  metadata: "metadata",
} satisfies Record<Exclude<KeyField, "quota">, keyof KeyRules>;

const refillOf: Readonly<Record<number, QuotaRules["refill"] | undefined>> = {
  [QuotaRefill.UNSPECIFIED]: "none",
  [QuotaRefill.NONE]: "none",
  [QuotaRefill.DAILY]: "daily",
  [QuotaRefill.MONTHLY]: "monthly",
} satisfies Record<QuotaRefill, QuotaRules["refill"]>;

interface Stated {
  displayName: string;
  expireTime?: Timestamp | undefined;
  scopes: readonly string[];
  allowedCidrs: readonly string[];
  rateLimitPerMinute: number;
  rateLimitPerDay: number;
  metadata: Readonly<Record<string, string>>;
}

function limitOf(stated: number): number | null {
  return stated === 0 ? null : stated;
}

function set(req: UpdateKeyRequest): KeyField[] {
  const isSet = {
    display_name: req.displayName !== "",
    expire_time: req.expireTime !== undefined,
    scopes: req.scopes.length > 0,
    allowed_cidrs: req.allowedCidrs.length > 0,
    rate_limit_per_minute: req.rateLimitPerMinute !== 0,
    rate_limit_per_day: req.rateLimitPerDay !== 0,
    quota: req.quota !== undefined,
    metadata: Object.keys(req.metadata).length > 0,
  } satisfies Record<KeyField, boolean>;
  return keyFields.filter((field) => isSet[field]);
}
