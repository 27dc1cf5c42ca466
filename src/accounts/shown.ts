import { type Timestamp, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { PlatformRole } from "../../gen/callora/accounts/v1/user_service_pb.ts";
import { isAdminRole, type Role } from "../rpc/principal.ts";
import { shownRateOf } from "./own-rate.ts";
import type { SessionRow } from "./session-store.ts";
import type { UserRow } from "./store.ts";
import type { TokenRow } from "./token-store.ts";

const platformRoleOf = {
  user: PlatformRole.USER,
  developer: PlatformRole.DEVELOPER,
  admin: PlatformRole.ADMIN,
  super_admin: PlatformRole.SUPER_ADMIN,
} satisfies Record<Role, PlatformRole>;

/** A person as callers see them. */
export function toUser(row: UserRow) {
  const rate = shownRateOf(row);
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    username: row.username,
    email: row.email,
    role: platformRoleOf[row.role],
    accountId: row.account_id,
    isAdmin: isAdminRole(row.role),
    isActive: row.active,
    rateLimitPerSecond: rate.perSecond,
    rateLimitBurst: rate.burst,
    updateTime: timestampFromMs(row.updated_at),
  };
}

/** A session as its owner sees it, in a call that another one, or the same, signs. */
export function toSession(row: SessionRow, currentId: string) {
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    expireTime: timestampFromMs(row.expire_at),
    method: row.method,
    ipAddress: row.ip ?? "",
    isCurrent: row.id === currentId,
  };
}

/** An API token, without its secret. */
export function toToken(row: TokenRow) {
  return {
    id: row.id,
    name: row.name,
    isRevoked: row.revoked_at !== null,
    createTime: timestampFromMs(row.created_at),
    ...optionalTime("expireTime", row.expire_at),
    ...optionalTime("lastUseTime", row.last_used_at),
  };
}

/** A message's field that is a time, or is not set. */
export function optionalTime<Name extends string>(
  name: Name,
  ms: number | null,
): { [N in Name]?: Timestamp } {
  return ms === null ? {} : ({ [name]: timestampFromMs(ms) } as { [N in Name]: Timestamp });
}

/** A person in the list of roles. */
export function toAdminUser(row: UserRow) {
  const { id, email, role } = row;
  return { id, email, role, createTime: timestampFromMs(row.created_at) };
}
