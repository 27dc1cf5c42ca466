import { RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { type AuthRoute, authRoutes } from "./accounts/auth-routes.ts";
import type { PathItem } from "./edge/docs.ts";

/** What a path does, and the fields of its body: those whose name ends with ? may be left out. */
interface Described {
  summary: string;
  body?: readonly string[];
  query?: readonly string[];
}

const described: Readonly<Record<string, Described>> = {
  "/ok": { summary: "See that sign-in is served" },
  "/sign-up/email": {
    summary: "Sign up with a mail address and a password of 8 to 128 characters",
    body: ["name", "email", "password", "image?", "hasCompletedOnboarding?:boolean"],
  },
  "/sign-in/email": {
    summary: "Sign in with a mail address and a password",
    body: ["email", "password", "rememberMe?:boolean", "callbackURL?"],
  },
  "/sign-in/social": {
    summary: "Begin to sign in with GitHub: the answer says where to go",
    body: ["provider", "callbackURL?", "errorCallbackURL?", "newUserCallbackURL?"],
  },
  "/callback/github": { summary: "Come back from GitHub", query: ["code?", "state?", "error?"] },
  "/get-session": { summary: "Get the session and its person, or null" },
  "/sign-out": { summary: "End the session" },
  "/update-user": {
    summary: "Change what others see of the person",
    body: ["name?", "image?", "hasCompletedOnboarding?:boolean"],
  },
  "/change-password": {
    summary: "Change the password, and end the other sessions if asked to",
    body: ["currentPassword", "newPassword", "revokeOtherSessions?:boolean"],
  },
  "/request-password-reset": {
    summary: "Have a link mailed with which to choose a new password",
    body: ["email", "redirectTo?"],
  },
  "/forget-password": {
    summary: "Have a link mailed with which to choose a new password; the older name",
    body: ["email", "redirectTo?"],
  },
  "/reset-password/{token}": {
    summary: "Follow the mailed link to the page that asks for a new password",
    query: ["callbackURL"],
  },
  "/reset-password": {
    summary: "Choose a new password, which ends all sessions",
    body: ["newPassword", "token"],
  },
  "/verify-email": {
    summary: "Follow the mailed link that verifies an address",
    query: ["token", "callbackURL?"],
  },
  "/send-verification-email": {
    summary: "Have the link mailed again that verifies an address",
    body: ["email", "callbackURL?"],
  },
  "/two-factor/enable": {
    summary: "Make a secret for an authenticator app, and backup codes",
    body: ["password"],
  },
  "/two-factor/disable": { summary: "Go without a second factor", body: ["password"] },
  "/two-factor/get-totp-uri": {
    summary: "Get the secret of the authenticator app again",
    body: ["password"],
  },
  "/two-factor/verify-totp": {
    summary: "Show a code of the authenticator app: to finish a sign-in, or to begin to use it",
    body: ["code", "trustDevice?:boolean"],
  },
  "/two-factor/verify-backup-code": {
    summary: "Finish a sign-in with a backup code, which works once",
    body: ["code", "trustDevice?:boolean"],
  },
  "/two-factor/generate-backup-codes": {
    summary: "Make new backup codes; the old ones are void",
    body: ["password"],
  },
  "/list-sessions": { summary: "List the person's sessions" },
  "/revoke-session": {
    summary: "End one of the person's sessions, by its token or its id",
    body: ["token"],
  },
  "/revoke-sessions": { summary: "End all of the person's sessions" },
  "/revoke-other-sessions": { summary: "End the person's other sessions" },
};

/** The paths of better-auth. */
export function authPaths(): Readonly<Record<string, PathItem>> {
  return Object.fromEntries(
    authRoutes().map((route) => [
      `/api/auth${route.path}`,
      { [route.method.toLowerCase()]: operation(route) },
    ]),
  );
}

function operation({ method, path, rateClass }: AuthRoute) {
  const { summary, body = [], query = [] } = described[path] ?? { summary: path };
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
  }));
  const inQuery = query.map((text) => {
    const { name, isRequired, type } = parse(text);
    return { name, in: "query", required: isRequired, schema: { type } };
  });
  const parameters = [...inPath, ...inQuery];
  return {
    tags: ["Sign-in"],
    summary,
    operationId: `Auth_${method}_${path.replace(/\W+/g, "_")}`,
    ...(parameters.length > 0 && { parameters }),
    ...(method === "POST" && { requestBody: requestBody(body) }),
    responses: {
      200: { description: "OK", content: { "application/json": { schema: {} } } },
      default: {
        description: "What is wrong.",
        content: {
          "application/json": {
            schema: {
              type: "object",
              properties: { code: { type: "string" }, message: { type: "string" } },
            },
          },
        },
      },
    },
    security: [],
    "x-callora-access": "PUBLIC",
    "x-callora-rate-class": Object.entries(RateClass).find(([, one]) => one === rateClass)?.[0],
  };
}

function requestBody(fields: readonly string[]) {
  const parsed = fields.map(parse);
  const properties = Object.fromEntries(parsed.map(({ name, type }) => [name, { type }]));
  const required = parsed.filter(({ isRequired }) => isRequired).map(({ name }) => name);
  const schema = { type: "object", properties, ...(required.length > 0 && { required }) };
  return { required: true, content: { "application/json": { schema } } };
}

function parse(text: string) {
  const [, name = "", mark, type = "string"] = /^(\w+)(\?)?(?::(\w+))?$/.exec(text) ?? [];
  return { name, isRequired: mark === undefined, type };
}
