import { z } from "zod";

const time = z.number().transform((ms) => new Date(ms));
const timeOrNull = z
  .number()
  .nullable()
  .transform((ms) => (ms === null ? null : new Date(ms)));

/** The tables that better-auth's models are kept in, and their columns as it sees them. */
export const authTables = {
  users: z.object({
    id: z.string(),
    account_id: z.string(),
    email: z.string(),
    email_verified: z.boolean(),
    name: z.string(),
    image: z.string().nullable(),
    role: z.string(),
    has_completed_onboarding: z.boolean(),
    two_factor_enabled: z.boolean(),
    created_at: time,
    updated_at: time,
  }),
  sessions: z.object({
    id: z.string(),
    account_id: z.string(),
    user_id: z.string(),
    token_hash: z.instanceof(Buffer).nullable(),
    ip: z.string().nullable(),
    user_agent: z.string(),
    expire_at: time,
    created_at: time,
    updated_at: time,
  }),
  sign_in_methods: z.object({
    id: z.string(),
    user_id: z.string(),
    provider_id: z.string(),
    provider_account_id: z.string(),
    password_hash: z.string().nullable(),
    access_token: z.string().nullable(),
    refresh_token: z.string().nullable(),
    id_token: z.string().nullable(),
    access_token_expire_at: timeOrNull,
    refresh_token_expire_at: timeOrNull,
    scope: z.string().nullable(),
    created_at: time,
    updated_at: time,
  }),
  sign_in_tokens: z.object({
    id: z.string(),
    identifier: z.string(),
    value: z.string(),
    expire_at: time,
    created_at: time,
    updated_at: time,
  }),
  second_factors: z.object({
    id: z.string(),
    user_id: z.string(),
    secret: z.string(),
    backup_codes: z.string(),
    verified: z.boolean(),
    failed_verification_count: z.number(),
    locked_until: timeOrNull,
  }),
} as const;

/** One of the tables. */
export type AuthTable = keyof typeof authTables;

/** A row of any of them. */
export type AuthRow = Readonly<Record<string, unknown>>;

/** The table of that name. Throws if it is none of them. */
export function authTable(name: string): AuthTable {
  if (!Object.hasOwn(authTables, name)) {
    throw new Error(`Cannot use table "${name}": nobody signs in by it`);
  }
  return name as AuthTable;
}

/** How better-auth's models and fields are called here. */
export const authModels = {
  user: {
    modelName: "users",
    fields: { emailVerified: "email_verified", createdAt: "created_at", updatedAt: "updated_at" },
  },
  session: {
    modelName: "sessions",
    fields: {
      userId: "user_id",
      expiresAt: "expire_at",
      ipAddress: "ip",
      userAgent: "user_agent",
      createdAt: "created_at",
      updatedAt: "updated_at",
    },
  },
  account: {
    modelName: "sign_in_methods",
    fields: {
      userId: "user_id",
      providerId: "provider_id",
      accountId: "provider_account_id",
      password: "password_hash",
      accessToken: "access_token",
      refreshToken: "refresh_token",
      idToken: "id_token",
      accessTokenExpiresAt: "access_token_expire_at",
      refreshTokenExpiresAt: "refresh_token_expire_at",
      createdAt: "created_at",
      updatedAt: "updated_at",
    },
  },
  verification: {
    modelName: "sign_in_tokens",
    fields: { expiresAt: "expire_at", createdAt: "created_at", updatedAt: "updated_at" },
  },
  twoFactor: {
    modelName: "second_factors",
    fields: {
      userId: "user_id",
      backupCodes: "backup_codes",
      failedVerificationCount: "failed_verification_count",
      lockedUntil: "locked_until",
    },
  },
} as const;

/** The prefixes of the ids that better-auth asks for, by its models. */
export const authIdPrefix: Readonly<Record<string, string>> = {
  user: "usr",
  session: "ses",
  account: "sim",
  verification: "sit",
  twoFactor: "sec",
};
