import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { KeyState, Mode, QuotaRefill } from "../../gen/callora/keys/v1/key_pb.ts";
import { VerifyCode } from "../../gen/callora/keys/v1/verification_pb.ts";
import type { Verdict } from "../rpc/limiter.ts";
import type { KeyRow } from "./store.ts";
import type { Verification } from "./verify.ts";

/** A key as its account sees it. */
export function toKey(row: KeyRow) {
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    updateTime: timestampFromMs(row.updated_at),
    apiId: row.api_id ?? "",
    displayName: row.display_name,
    prefix: row.prefix,
    mode: modeOf[row.mode],
    state: row.revoked_at === null ? stateOf[row.state] : KeyState.REVOKED,
    scopes: [...row.scopes],
    allowedCidrs: [...row.allowed_cidrs],
    rateLimitPerMinute: row.rate_limit_per_minute ?? 0,
    rateLimitPerDay: row.rate_limit_per_day ?? 0,
    metadata: row.metadata,
    createdBy: row.created_by,
    rotatedToKeyId: row.rotated_to ?? "",
    ...time("expireTime", row.expire_at),
    ...time("revokeTime", row.revoked_at),
    ...time("lastUseTime", row.last_used_at),
    ...time("rotateEndTime", row.rotate_until),
    ...toQuota(row),
  };
}

/** The answer to a verification. */
export function toVerdict(verification: Verification) {
  const code = codeOf[verification.code];
  if (verification.code === "NOT_FOUND") {
    return { code };
  }
  const { key, usesLeft, rate } = verification;
  return {
    valid: verification.code === "VALID",
    code,
    keyId: key.id,
    accountId: key.accountId,
    apiId: key.apiId ?? "",
    mode: modeOf[key.mode],
    scopes: [...key.scopes],
    metadata: key.metadata,
    ...time("expireTime", key.expireAtMs),
    ...(usesLeft === null ? {} : { usesLeft: BigInt(usesLeft) }),
    ...(rate === null ? {} : { rateLimit: toRateLimit(rate) }),
  };
}

const modeOf = { live: Mode.LIVE, test: Mode.TEST } satisfies Record<KeyRow["mode"], Mode>;

const stateOf = {
  active: KeyState.ACTIVE,
  disabled: KeyState.DISABLED,
} satisfies Record<KeyRow["state"], KeyState>;

const refillOf = {
  none: QuotaRefill.NONE,
  daily: QuotaRefill.DAILY,
  monthly: QuotaRefill.MONTHLY,
} satisfies Record<NonNullable<KeyRow["refill"]>, QuotaRefill>;

const codeOf = {
  VALID: VerifyCode.VALID,
  NOT_FOUND: VerifyCode.NOT_FOUND,
  DISABLED: VerifyCode.DISABLED,
  EXPIRED: VerifyCode.EXPIRED,
  FORBIDDEN: VerifyCode.FORBIDDEN,
  INSUFFICIENT_PERMISSIONS: VerifyCode.INSUFFICIENT_PERMISSIONS,
  USAGE_EXCEEDED: VerifyCode.USAGE_EXCEEDED,
  RATE_LIMITED: VerifyCode.RATE_LIMITED,
} satisfies Record<Verification["code"], VerifyCode>;

function toQuota(row: KeyRow) {
  if (row.uses_max === null) {
    return {};
  }
  return {
    quota: {
      usesMax: row.uses_max,
      usesLeft: row.uses_left ?? 0n,
      refill: refillOf[row.refill ?? "none"],
      refillDay: row.refill_day ?? 1,
      ...time("refillTime", row.refilled_at),
      ...time("nextRefillTime", row.refill_at),
    },
  };
}

function toRateLimit({ allowed, limit, remaining, resetMs, retryAfterMs }: Verdict) {
  return {
    limit,
    remaining,
    resetAfter: durationFromMs(resetMs),
    ...(allowed ? {} : { retryAfter: durationFromMs(retryAfterMs) }),
  };
}

/** A field that is only there when the moment is. */
function time<Name extends string>(name: Name, ms: number | null) {
  return (ms === null ? {} : { [name]: timestampFromMs(ms) }) as {
    [key in Name]?: ReturnType<typeof timestampFromMs>;
  };
}
