import { perSecond, type Rate } from "../rpc/gcra.ts";
import { isAdminRole } from "../rpc/principal.ts";
import type { UserRow } from "./store.ts";

type Rated = Pick<UserRow, "role" | "rate_limit_per_second" | "rate_limit_burst">;

/** How often a person may call what monitors ask: what an admin said, else what everybody of the role may. */
export function shownRateOf(user: Rated): { perSecond: number; burst: number } {
  const admin = isAdminRole(user.role);
  return {
    perSecond: user.rate_limit_per_second ?? (admin ? 100 : 10),
    burst: user.rate_limit_burst ?? (admin ? 200 : 20),
  };
}

/** What an admin said of how often a person may call. Null: nothing. */
export function ownRateOf(user: Rated): Rate | null {
  if (user.rate_limit_per_second === null && user.rate_limit_burst === null) {
    return null;
  }
  const shown = shownRateOf(user);
  return perSecond(shown.perSecond, shown.burst);
}
