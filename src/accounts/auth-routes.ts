import { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";

/** A path of better-auth that is served. What is not listed is not there. */
export interface AuthRoute {
  method: "GET" | "POST";
  /** A template, below /api/auth. */
  path: string;
  rateClass: RateClass;
  /** Whether the browser may come from elsewhere with its cookies: from GitHub, or from a link in a mail. */
  isArrival?: boolean;
  /** The path under which better-auth knows it, if by another. */
  alias?: string;
}

const { LOGIN, CONSOLE, NONE } = RateClass;

const routes: readonly AuthRoute[] = [
  { method: "GET", path: "/ok", rateClass: NONE },
  { method: "POST", path: "/sign-up/email", rateClass: LOGIN },
  { method: "POST", path: "/sign-in/email", rateClass: LOGIN },
  { method: "POST", path: "/sign-in/social", rateClass: LOGIN },
  { method: "GET", path: "/callback/github", rateClass: LOGIN, isArrival: true },
  { method: "GET", path: "/get-session", rateClass: CONSOLE },
  { method: "POST", path: "/sign-out", rateClass: CONSOLE },
  { method: "POST", path: "/update-user", rateClass: CONSOLE },
  { method: "POST", path: "/change-password", rateClass: LOGIN },
  { method: "POST", path: "/request-password-reset", rateClass: LOGIN },
  {
    method: "POST",
    path: "/forget-password",
    rateClass: LOGIN,
    alias: "/request-password-reset",
  },
  { method: "GET", path: "/reset-password/{token}", rateClass: LOGIN, isArrival: true },
  { method: "POST", path: "/reset-password", rateClass: LOGIN },
  { method: "GET", path: "/verify-email", rateClass: LOGIN, isArrival: true },
  { method: "POST", path: "/send-verification-email", rateClass: LOGIN },
  { method: "POST", path: "/two-factor/enable", rateClass: LOGIN },
  { method: "POST", path: "/two-factor/disable", rateClass: LOGIN },
  { method: "POST", path: "/two-factor/get-totp-uri", rateClass: LOGIN },
  { method: "POST", path: "/two-factor/verify-totp", rateClass: LOGIN },
  { method: "POST", path: "/two-factor/verify-backup-code", rateClass: LOGIN },
  { method: "POST", path: "/two-factor/generate-backup-codes", rateClass: LOGIN },
  { method: "GET", path: "/list-sessions", rateClass: CONSOLE },
  { method: "POST", path: "/revoke-session", rateClass: CONSOLE },
  { method: "POST", path: "/revoke-sessions", rateClass: CONSOLE },
  { method: "POST", path: "/revoke-other-sessions", rateClass: CONSOLE },
];

/** Every path of better-auth that is served. */
export function authRoutes(): readonly AuthRoute[] {
  return routes;
}
