import { Access } from "../gen/callora/policy/v1/policy_pb.ts";
import type { AuthDeps } from "./accounts/auth.ts";
import { authHandler } from "./accounts/auth-handler.ts";
import { createAuthMails } from "./accounts/auth-mails.ts";
import { authSecret, createAuthRequests } from "./accounts/auth-request.ts";
import { authRoutes } from "./accounts/auth-routes.ts";
import { cookieReader } from "./accounts/cookie-reader.ts";
import type { Lockout } from "./accounts/lockout.ts";
import type { Mailer } from "./accounts/mail.ts";
import type { PasswordHasher } from "./accounts/password.ts";
import type { CredentialReader } from "./accounts/people.ts";
import type { Sessions } from "./accounts/session-memory.ts";
import type { Config } from "./config.ts";
import type { Database } from "./db/database.ts";
import type { Trust } from "./db/trust.ts";
import { fetchMount } from "./edge/fetch-mount.ts";
import type { Mount } from "./edge/mount.ts";
import type { Logger } from "./log.ts";
import { ownOrigins, ownUrl } from "./own-origins.ts";
import type { Strangers } from "./rpc/strangers.ts";

interface Deps {
  config: Config;
  secretKey: string;
  db: Database;
  trust: Trust;
  sessions: Sessions;
  passwords: PasswordHasher;
  mail: Mailer;
  lockout: Lockout;
  strangers: Strangers;
  log: Logger;
  now: () => Date;
  /** The port that the server listens on. Asked for when the first request comes. */
  boundPort: () => number;
}

/** The routes of better-auth, and who their session cookie stands for. */
export function authMounts(deps: Deps): { mounts: Mount[]; reader: CredentialReader } {
  const { config, db, trust, sessions, lockout, strangers, now, boundPort } = deps;
  const requests = createAuthRequests();
  const url = () => ownUrl(config, boundPort());
  const secret = authSecret(deps.secretKey);
  const origins = once(() => ownOrigins(config, boundPort()));
  const auth = once(async () => {
    const { createAuth } = await import("./accounts/auth.ts");
    return createAuth(toAuthDeps(deps, { requests, secret }));
  });
  const serve = authHandler({ db, trust, requests, lockout, auth, origins, now });
  const mounts = authRoutes().map(
    (route): Mount => ({
      method: route.method,
      pattern: `/api/auth${route.path}`,
      // What is audited, better-auth's adapter appends with the change itself.
      policy: {
        access: Access.PUBLIC,
        auditAction: "",
        rateClass: route.rateClass,
        successStatus: 0,
      },
      handler: fetchMount({
        origin: url,
        serve: (request, call) => serve(route, request, call),
      }),
    }),
  );
  const isSecure = () => url().startsWith("https:");
  return { mounts, reader: cookieReader({ sessions, secret, isSecure, origins, strangers, now }) };
}

function toAuthDeps(
  deps: Deps,
  { requests, secret }: Pick<AuthDeps, "requests" | "secret">,
): AuthDeps {
  const { config, db, trust, passwords, log, now, boundPort } = deps;
  return {
    db,
    trust,
    requests,
    passwords,
    mails: createAuthMails(deps.mail),
    github: config.github,
    secret,
    url: ownUrl(config, boundPort()),
    origins: [...ownOrigins(config, boundPort())],
    now,
    onLog: (level, message, err) =>
      log[level]("better-auth has something to say", {
        component: "better-auth",
        reason: withoutAddresses(message),
        ...(err === undefined ? {} : { err }),
      }),
  };
}

/** Mail addresses are nobody's business but their owners'. */
function withoutAddresses(message: string): string {
  return message.replace(/\S+@\S+/g, "[address]");
}

function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
