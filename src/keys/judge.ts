import ipaddr from "ipaddr.js";
import type { KnownKey } from "./known-key.ts";
import { isAllowed, type Permission } from "./permission.ts";

/** What is wanted of a key. */
export interface Use {
  /** Null: any API. */
  apiId: string | null;
  /** The address that the consumer called from. Null: not known. */
  clientIp: string | null;
  /** Null: nothing in particular. */
  permission: Permission | null;
  /** Uses that it takes from the quota. */
  cost: number;
}

/** The first thing that is wrong with a known key, as far as memory tells. */
export type Fault =
  | "DISABLED"
  | "EXPIRED"
  | "FORBIDDEN"
  | "INSUFFICIENT_PERMISSIONS"
  | "USAGE_EXCEEDED";

/** Judge a key by what is remembered of it, in the order that the contract gives. Null: nothing is wrong with it. */
export function findFault(key: KnownKey, use: Use, nowMs: number): Fault | null {
  if (key.isDisabled) {
    return "DISABLED";
  }
  if (key.expireAtMs !== null && key.expireAtMs <= nowMs) {
    return "EXPIRED";
  }
  if (!opensApi(key, use) || !isWelcomeFrom(key, use)) {
    return "FORBIDDEN";
  }
  if (use.permission !== null && !isAllowed(use.permission, key.scopes)) {
    return "INSUFFICIENT_PERMISSIONS";
  }
  return isKnownSpent(key, use, nowMs) ? "USAGE_EXCEEDED" : null;
}

function opensApi({ apiId }: KnownKey, use: Use): boolean {
  return apiId === null || use.apiId === null || use.apiId === apiId;
}

function isWelcomeFrom({ allowedCidrs }: KnownKey, { clientIp }: Use): boolean {
  if (allowedCidrs.length === 0) {
    return true;
  }
  if (clientIp === null || !ipaddr.isValid(clientIp)) {
    return false;
  }
  const address = ipaddr.process(clientIp);
  return allowedCidrs.some((cidr) => {
    const [base, bits] = ipaddr.parseCIDR(cidr);
    return base.kind() === address.kind() && address.match(base, bits);
  });
}

function isKnownSpent({ quota }: KnownKey, { cost }: Use, nowMs: number): boolean {
  if (quota === null || cost <= quota.leftMax) {
    return false;
  }
  return quota.refillAtMs === null || nowMs < quota.refillAtMs;
}
