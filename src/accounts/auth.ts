import type { BetterAuthOptions, BetterAuthPlugin } from "better-auth";
import { APIError } from "better-auth/api";
import { betterAuth } from "better-auth/minimal";
import { twoFactor } from "better-auth/plugins/two-factor";
import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import { newId } from "../lib/id.ts";
import { authAdapter } from "./auth-adapter.ts";
import type { AuthMails } from "./auth-mails.ts";
import { type AuthRequests, clientIpHeader } from "./auth-request.ts";
import { authIdPrefix, authModels } from "./auth-tables.ts";
import { type GithubConfig, githubProvider } from "./github.ts";
import type { PasswordHasher } from "./password.ts";

/** What better-auth is built from. */
export interface AuthDeps {
  db: Database;
  trust: Trust;
  requests: AuthRequests;
  passwords: PasswordHasher;
  mails: AuthMails;
  /** Undefined: nobody signs in with GitHub. */
  github: GithubConfig | undefined;
  /** Signs cookies and encrypts second factors. */
  secret: string;
  /** The server's own address, for example `https://callora.example`. Decides on Secure cookies. */
  url: string;
  /** Origins of our own pages. */
  origins: readonly string[];
  now: () => Date;
  /** Told of what better-auth says, which may quote what was sent. */
  onLog: (level: "debug" | "info" | "warn" | "error", message: string, error: unknown) => void;
}

/** A session lasts a week, and is prolonged when it is used a day after that was last done. */
const sessionSeconds = 7 * 24 * 60 * 60;
const sessionRefreshSeconds = 24 * 60 * 60;
const mailSeconds = 60 * 60;

/**
 * better-auth over our tables. Loading it takes a tenth of the server's memory: import this file when somebody asks.
 * Serves requests whose path begins with /api/auth, each inside `requests.run`.
 */
export function createAuth(deps: AuthDeps): { handler: (request: Request) => Promise<Response> } {
  return betterAuth(authOptions(deps));
}

function authOptions(deps: AuthDeps): BetterAuthOptions {
  const { db, trust, requests, github, secret, url, origins, now } = deps;
  return {
    appName: "Callora",
    baseURL: url,
    secret,
    trustedOrigins: [...origins],
    database: authAdapter({ db, trust, requests, now }),
    ...passwordOptions(deps),
    user: {
      ...authModels.user,
      additionalFields: {
        hasCompletedOnboarding: {
          type: "boolean",
          required: false,
          defaultValue: false,
          fieldName: "has_completed_onboarding",
        },
        role: { type: "string", required: false, input: false },
        accountId: { type: "string", required: false, input: false, fieldName: "account_id" },
      },
    },
    session: {
      ...authModels.session,
      expiresIn: sessionSeconds,
      updateAge: sessionRefreshSeconds,
      cookieCache: { enabled: false },
    },
    account: {
      ...authModels.account,
      encryptOAuthTokens: true,
      // Both sides must have proved the address: else whoever signs up first with another's would share the account.
      accountLinking: { enabled: true, trustedProviders: [], requireLocalEmailVerified: true },
    },
    verification: { ...authModels.verification, storeIdentifier: "hashed" },
    plugins: [
      twoFactor({
        issuer: "Callora",
        schema: {
          user: { fields: { twoFactorEnabled: "two_factor_enabled" } },
          twoFactor: authModels.twoFactor,
        },
      }),
      ...(github === undefined ? [] : [githubPlugin(github)]),
    ],
    onAPIError: {
      errorURL: `${url}/`,
      onError(error) {
        const request = requests.getStore();
        if (request !== undefined) {
          request.failure = error;
        }
      },
    },
    advanced: advancedOptions(deps),
    // The edge counts calls before they come here.
    rateLimit: { enabled: false },
    telemetry: { enabled: false },
    logger: {
      level: "info",
      disableColors: true,
      log: (level, message, ...rest) => deps.onLog(level, message, rest.find(isError)),
    },
  };
}

function passwordOptions({
  passwords,
  mails,
  requests,
}: AuthDeps): Pick<BetterAuthOptions, "emailAndPassword" | "emailVerification"> {
  return {
    emailAndPassword: {
      enabled: true,
      minPasswordLength: 8,
      maxPasswordLength: 128,
      resetPasswordTokenExpiresIn: mailSeconds,
      revokeSessionsOnPasswordReset: true,
      sendResetPassword: ({ user, url }) => mails.resetPassword(user.email, url),
      password: {
        hash: (password) => passwords.hash(password),
        async verify({ password, hash }) {
          const request = requests.getStore();
          if ((await request?.mayCheck?.(hash)) === false) {
            throw new APIError("TOO_MANY_REQUESTS");
          }
          const isRight = await passwords.verify(password, hash);
          if (isRight && request?.path === "/sign-in/email") {
            request.passwordHash = hash;
          }
          return isRight;
        },
      },
    },
    emailVerification: {
      sendOnSignUp: true,
      expiresIn: mailSeconds,
      sendVerificationEmail: ({ user, url }) => mails.verifyAddress(user.email, url),
    },
  };
}

function advancedOptions({ url, now, onLog }: AuthDeps): BetterAuthOptions["advanced"] {
  return {
    useSecureCookies: url.startsWith("https:"),
    // Said although it is the default: under a test's environment it is not.
    disableOriginCheck: false,
    disableCSRFCheck: false,
    ipAddress: { ipAddressHeaders: [clientIpHeader] },
    database: {
      validateSchema: false,
      generateId: ({ model }) => newId(authIdPrefix[model] ?? "sit", now()),
    },
    backgroundTasks: {
      // Mail: the reply must not tell, by its time, whether there was one to send.
      handler: (task) => {
        task.catch((error: unknown) => onLog("error", "Cannot send a mail", error));
      },
    },
  };
}

function githubPlugin(config: GithubConfig): BetterAuthPlugin {
  return {
    id: "callora-github",
    init: ({ socialProviders }) => ({
      context: { socialProviders: [...socialProviders, githubProvider(config)] },
    }),
  };
}

function isError(value: unknown): boolean {
  return value instanceof Error;
}
