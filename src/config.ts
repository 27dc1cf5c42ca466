import { createPrivateKey, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { join } from "node:path";
import type { z } from "zod";
import type { ExternalIssuer } from "./accounts/external.ts";
import {
  type EncryptionKey,
  encryptionKeys,
  externalIssuers,
  flag,
  longText,
  networks,
  oneOf,
  origin,
  origins,
  pemFile,
  signedNumber,
  stellarKey,
  text,
  url,
  wholeNumber,
} from "./config-values.ts";

/** What kind of place the server runs in. */
export type Environment = "development" | "test" | "production";

/** Everything that is set from outside. */
export interface Config {
  readonly environment: Environment;
  readonly logLevel: z.output<typeof variables.LOG_LEVEL>;
  /** Where the embedded parts and generated secrets live. */
  readonly dataDir: string;
  readonly server: {
    readonly host: string;
    /** 0: any free one. */
    readonly port: number;
    readonly corsOrigins: readonly string[];
    /** Networks whose word about the client's address counts. */
    readonly trustedProxies: readonly string[];
    /** A certificate chain and its key, as PEM. Undefined: the port speaks HTTP in the clear. */
    readonly tls:
      | { readonly cert: string; readonly key: string; readonly clientCa: string | undefined }
      | undefined;
    /** How long calls in flight may go on after the server was told to stop. */
    readonly shutdownGraceMs: number;
    /** The origin under which people reach the server. Undefined: the one that it listens on. */
    readonly publicUrl: string | undefined;
    /** Whether `x-user-id` stands in for signing in. */
    readonly devUserHeader: boolean;
  };
  /** Undefined: the embedded PostgreSQL. */
  readonly database:
    | {
        readonly url: string;
        readonly workerUrl: string;
        readonly migrateUrl: string;
        readonly listenUrl: string;
      }
    | undefined;
  /** Undefined: limits are counted by each process alone. */
  readonly redisUrl: string | undefined;
  /** What becomes of limited calls while Redis is away. */
  readonly rateLimitRedisAway: z.output<typeof variables.RATE_LIMIT_REDIS_AWAY>;
  readonly secrets: {
    /**
     * Undefined: the app makes one and keeps it under the data directory. Never so in production.
     */
    readonly secretKey: string | undefined;
    /** The first one seals, all of them open. Empty as `secretKey` is undefined. */
    readonly encryptionKeys: readonly EncryptionKey[];
    readonly metricsApiKey: string | undefined;
  };
  /** Undefined: nobody signs in with GitHub. */
  readonly github:
    | {
        readonly clientId: string;
        readonly clientSecret: string;
        readonly url: string;
        readonly apiUrl: string;
      }
    | undefined;
  /** Who else may say who somebody is. */
  readonly externalIssuers: readonly ExternalIssuer[];
  readonly admin: { readonly username: string; readonly password: string | undefined };
  readonly stellar: {
    readonly network: "embedded" | "testnet" | "public";
    /** Undefined: the one of the embedded ledger. */
    readonly horizonUrl: string | undefined;
    readonly sorobanRpcUrl: string | undefined;
    readonly treasurySecret: string | undefined;
    readonly channelSecret: string | undefined;
    readonly assetCode: string;
    /** Undefined: the one that the embedded ledger makes. */
    readonly assetIssuer: string | undefined;
    /** 0: any free one. */
    readonly devnetPort: number;
    /** The domain that wallets sign in to. */
    readonly homeDomain: string;
    /** Signs the challenges of wallets. Undefined: nobody signs in by wallet, but in development. */
    readonly webAuthSecret: string | undefined;
  };
  readonly platformFeeBasisPoints: number;
  /** What a consumer may owe of whom nothing else was said. */
  readonly debtLimitNanos: bigint;
  /** Where old rows of the journal are kept. Undefined: in the database, for ever. */
  readonly archiveDir: string | undefined;
  /** Days that rows of the journal stay in the database. */
  readonly journalKeepDays: number;
  /** Months, before the present one, whose events are kept. */
  readonly eventsKeepMonths: number;
  readonly gateway: {
    /** Networks that an API's upstream may be in although their addresses are private. */
    readonly allowPrivateUpstreams: readonly string[];
    readonly upstreamTimeoutMs: number;
    /** The only host that serves calls, and nothing else is served on it. Undefined: any host serves everything. */
    readonly host: string | undefined;
    /** To one origin. */
    readonly connectionsMax: number;
    /** That run at once. */
    readonly callsMax: number;
    /** Events of answered calls that may not be durable yet. */
    readonly asyncPendingMax: number;
  };
  /** What the server adds to the time, for tests. Zero in production. */
  readonly testClockOffsetMs: number;
}

/**
 * The environment does not make a configuration. The message has a line for each variable, and no
 * value.
 */
export class ConfigError extends Error {
  override name = "ConfigError";
}

const visible = /^[\x21-\x7e]+$/;
const visibleText = "visible ASCII characters without spaces";
const postgresUrl = () => url("postgres", "postgresql");

const variables = {
  NODE_ENV: oneOf(["development", "test", "production"], "development"),
  HOST: text(/^[A-Za-z0-9.:_-]+$/, "a host name or an address"),
  PORT: wholeNumber(0, 65_535, 3000),
  LOG_LEVEL: oneOf(["trace", "debug", "info", "warn", "error", "fatal", "silent"], "info"),
  SHUTDOWN_GRACE_MS: wholeNumber(0, 600_000, 10_000),
  PUBLIC_URL: origin(),
  CORS_ORIGINS: origins(),
  TRUSTED_PROXIES: networks(),
  TLS_CERT: pemFile("certificate"),
  TLS_KEY: pemFile("private key"),
  TLS_CLIENT_CA: pemFile("certificate"),
  CALLORA_DATA_DIR: text(),
  CALLORA_ADMIN_USERNAME: text(/^[A-Za-z0-9._@+-]{1,64}$/, "up to 64 letters, digits and ._@+-"),
  CALLORA_ADMIN_PASSWORD: longText(15),
  CALLORA_DEV_USER_HEADER: flag(),
  DATABASE_URL: postgresUrl(),
  DATABASE_WORKER_URL: postgresUrl(),
  DATABASE_MIGRATE_URL: postgresUrl(),
  DATABASE_LISTEN_URL: postgresUrl(),
  REDIS_URL: url("redis", "rediss"),
  RATE_LIMIT_REDIS_AWAY: oneOf(["keys", "closed", "local", "open"], "keys"),
  SECRET_KEY: longText(32),
  ENCRYPTION_KEYS: encryptionKeys(),
  GITHUB_CLIENT_ID: text(visible, visibleText),
  GITHUB_CLIENT_SECRET: text(visible, visibleText),
  GITHUB_URL: url("https", "http"),
  GITHUB_API_URL: url("https", "http"),
  METRICS_API_KEY: text(visible, visibleText),
  STELLAR_NETWORK: oneOf(["embedded", "testnet", "public"], "embedded"),
  HORIZON_URL: url("https", "http"),
  SOROBAN_RPC_URL: url("https", "http"),
  STELLAR_TREASURY_SECRET: stellarKey("S"),
  STELLAR_CHANNEL_SECRET: stellarKey("S"),
  STELLAR_ASSET_CODE: text(/^[A-Za-z0-9]{1,12}$/, "1 to 12 letters and digits"),
  STELLAR_ASSET_ISSUER: stellarKey("G"),
  STELLAR_DEVNET_PORT: wholeNumber(0, 65_535, 0),
  STELLAR_HOME_DOMAIN: text(/^[A-Za-z0-9.:-]{1,253}$/, "a domain, with a port if need be"),
  STELLAR_WEB_AUTH_SECRET: stellarKey("S"),
  EXTERNAL_ISSUERS: externalIssuers(),
  PLATFORM_FEE_BASIS_POINTS: wholeNumber(0, 10_000, 1000),
  DEBT_LIMIT_NANOS: wholeNumber(0, Number.MAX_SAFE_INTEGER, 100_000_000_000),
  CALLORA_ARCHIVE_DIR: text(),
  JOURNAL_KEEP_DAYS: wholeNumber(41, 36_500, 45),
  EVENTS_KEEP_MONTHS: wholeNumber(3, 1_200, 13),
  GATEWAY_ALLOW_PRIVATE_UPSTREAMS: networks(),
  GATEWAY_UPSTREAM_TIMEOUT_MS: wholeNumber(1, 600_000, 30_000),
  GATEWAY_HOST: text(/^[A-Za-z0-9.-]{1,253}(?::\d{1,5})?$/, "a host, with a port if need be"),
  GATEWAY_CONNECTIONS_MAX: wholeNumber(1, 65_535, 1_024),
  GATEWAY_CALLS_MAX: wholeNumber(1, 1_000_000, 10_000),
  GATEWAY_ASYNC_PENDING_MAX: wholeNumber(0, 1_000_000, 2_000),
  CALLORA_TEST_CLOCK_OFFSET_MS: signedNumber(100_000_000_000, 0),
} satisfies Record<string, z.ZodType>;

type Name = keyof typeof variables;
type Values = { [N in Name]: z.output<(typeof variables)[N]> };
type Env = Readonly<Record<string, string | undefined>>;

/** The names of all variables that are read here. OTEL_* are OpenTelemetry's own. */
export const variableNames = Object.keys(variables) as readonly Name[];

const defaultHost = "127.0.0.1";
const dataDirDefault = ".callora";

const defaultHorizonUrl = {
  embedded: undefined,
  testnet: "https://horizon-testnet.stellar.org",
  public: "https://horizon.stellar.org",
} satisfies Record<Config["stellar"]["network"], string | undefined>;

/**
 * Read the configuration. Throws ConfigError with a line for each variable that is missing or
 * wrong.
 */
export function readConfig(env: Env): Config {
  const { values, problems } = readValues(env);
  const unknown = Object.keys(env)
    .filter(
      (name) => name.startsWith("CALLORA_") && !(name in variables) && env[name] !== undefined,
    )
    .map((name) => `${printable(name)}: is not a variable that Callora knows`);
  // A wrong value is reported once, for what it is; a rule about it can only be judged when it is
  // right.
  const broken = rules(values).filter(([name]) => !problems.has(name));
  const lines = [
    ...[...problems, ...broken].map(([name, problem]) => `${name}: ${problem}`),
    ...unknown,
  ];
  if (lines.length > 0) {
    throw configError(lines);
  }
  return toConfig(values as Values);
}

/** Where the database is that is to be migrated. */
export interface MigrateConfig {
  /** Undefined: the embedded PostgreSQL. */
  readonly url: string | undefined;
  readonly dataDir: string;
}

/** Read what migrating needs, and no more: whoever migrates need not hold the server's secrets. */
export function readMigrateConfig(env: Env): MigrateConfig {
  const { values, problems } = readValues(env);
  const url = values.DATABASE_MIGRATE_URL ?? values.DATABASE_URL;
  const names = ["NODE_ENV", "CALLORA_DATA_DIR", "DATABASE_MIGRATE_URL", "DATABASE_URL"] as const;
  const lines = names.flatMap((name) => {
    const problem = problems.get(name);
    return problem === undefined ? [] : [`${name}: ${problem}`];
  });
  if (lines.length === 0 && url === undefined && values.NODE_ENV === "production") {
    lines.push("DATABASE_URL: must be set in production");
  }
  if (lines.length > 0) {
    throw configError(lines);
  }
  return { url, dataDir: values.CALLORA_DATA_DIR ?? dataDirDefault };
}

function configError(lines: string[]): ConfigError {
  return new ConfigError(["Cannot start: the environment is not right", ...lines].join("\n"));
}

function readValues(env: Env) {
  const values: Partial<Record<Name, unknown>> = {};
  const problems = new Map<Name, string>();
  for (const name of variableNames) {
    const result = variables[name].safeParse(env[name]);
    if (result.success) {
      values[name] = result.data;
    } else {
      problems.set(name, result.error.issues[0]?.message ?? "is not accepted");
    }
  }
  return { values: values as Partial<Values>, problems };
}

/** What is in the journal may repeat an event of so many months before: whoever verifies looks it up. */
const monthsOfIdentity = 2;

/** What variables must be because of others. Those whose value could not be read are undefined. */
function rules(values: Partial<Values>): [Name, string][] {
  const problems: [Name, string][] = [];
  const check = (name: Name, isRight: boolean, problem: string) => {
    if (!isRight) problems.push([name, problem]);
  };
  const isProduction = values.NODE_ENV === "production";
  const network = values.STELLAR_NETWORK ?? "embedded";
  for (const name of [
    "DATABASE_WORKER_URL",
    "DATABASE_MIGRATE_URL",
    "DATABASE_LISTEN_URL",
  ] as const) {
    const isAlone = values[name] !== undefined && values.DATABASE_URL === undefined;
    check("DATABASE_URL", !isAlone || isProduction, `must be set when ${name} is`);
  }
  if (network !== "embedded") {
    const problem = "must be set unless STELLAR_NETWORK is embedded";
    check("STELLAR_ASSET_ISSUER", values.STELLAR_ASSET_ISSUER !== undefined, problem);
  }
  problems.push(...tlsRules(values), ...githubRules(values));
  const challengeKey = values.STELLAR_WEB_AUTH_SECRET;
  if (challengeKey !== undefined) {
    const paying = [values.STELLAR_TREASURY_SECRET, values.STELLAR_CHANNEL_SECRET];
    const problem = "must be another key than those that pay";
    check("STELLAR_WEB_AUTH_SECRET", !paying.includes(challengeKey), problem);
  }
  const { JOURNAL_KEEP_DAYS: days = 0, EVENTS_KEEP_MONTHS: months = Number.POSITIVE_INFINITY } =
    values;
  const monthsMin = Math.ceil(days / 28) + monthsOfIdentity;
  const tooFew = `must be at least ${monthsMin} when JOURNAL_KEEP_DAYS is ${days}`;
  check("EVENTS_KEEP_MONTHS", months >= monthsMin, tooFew);
  if (values.CALLORA_DEV_USER_HEADER) {
    const problem = "is only for a HOST that is a loopback address";
    check("CALLORA_DEV_USER_HEADER", isProduction || isLoopback(values.HOST), problem);
  }
  if (isProduction) {
    problems.push(...productionRules(values));
  }
  return problems;
}

function tlsRules({
  TLS_CERT: cert,
  TLS_KEY: key,
  TLS_CLIENT_CA: clientCa,
}: Partial<Values>): [Name, string][] {
  if (clientCa !== undefined && cert === undefined && key === undefined) {
    return [["TLS_CERT", "must be set when TLS_CLIENT_CA is"]];
  }
  if (cert === undefined || key === undefined) {
    const missing = cert === undefined ? "TLS_CERT" : "TLS_KEY";
    const other = cert === undefined ? "TLS_KEY" : "TLS_CERT";
    return cert === key ? [] : [[missing, `must be set when ${other} is`]];
  }
  return isPair(cert, key) ? [] : [["TLS_KEY", "is not the key of the certificate in TLS_CERT"]];
}

function isPair(cert: string, key: string): boolean {
  return new X509Certificate(cert).checkPrivateKey(createPrivateKey(key));
}

function githubRules(values: Partial<Values>): [Name, string][] {
  const names = ["GITHUB_CLIENT_ID", "GITHUB_CLIENT_SECRET"] as const;
  const missing = names.filter((name) => values[name] === undefined);
  const other = names.find((name) => values[name] !== undefined);
  return other === undefined
    ? []
    : missing.map((name): [Name, string] => [name, `must be set when ${other} is`]);
}

const distinctCharactersMin = 10;

function productionRules(values: Partial<Values>): [Name, string][] {
  const problems: [Name, string][] = [];
  for (const name of ["DATABASE_URL", "SECRET_KEY", "PUBLIC_URL"] as const) {
    if (values[name] === undefined) problems.push([name, "must be set in production"]);
  }
  if (values.SECRET_KEY && new Set(values.SECRET_KEY).size < distinctCharactersMin) {
    problems.push(["SECRET_KEY", "must be random: it has too few different characters"]);
  }
  if (!values.ENCRYPTION_KEYS?.length) {
    problems.push(["ENCRYPTION_KEYS", "must be set in production"]);
  } else if (values.ENCRYPTION_KEYS.some(({ key }) => new Set(key).size < distinctCharactersMin)) {
    problems.push(["ENCRYPTION_KEYS", "must be random: a key has too few different bytes"]);
  }
  if (values.STELLAR_NETWORK === "embedded") {
    const problem =
      "must be testnet or public in production: the embedded ledger's money is not real";
    problems.push(["STELLAR_NETWORK", problem]);
  }
  for (const name of ["STELLAR_TREASURY_SECRET", "STELLAR_CHANNEL_SECRET"] as const) {
    if (values[name] === undefined) problems.push([name, "must be set in production"]);
  }
  if (values.STELLAR_WEB_AUTH_SECRET && values.STELLAR_HOME_DOMAIN === undefined) {
    // By it a wallet tells a challenge that somebody else relays.
    problems.push(["STELLAR_HOME_DOMAIN", "must be set when STELLAR_WEB_AUTH_SECRET is"]);
  }
  if (values.EXTERNAL_ISSUERS?.some(({ issuer }) => !issuer.startsWith("https:"))) {
    problems.push(["EXTERNAL_ISSUERS", "must be https in production"]);
  }
  if (values.GATEWAY_ALLOW_PRIVATE_UPSTREAMS?.length) {
    const problem = "must be empty in production: it opens private addresses";
    problems.push(["GATEWAY_ALLOW_PRIVATE_UPSTREAMS", problem]);
  }
  if (values.TRUSTED_PROXIES?.some((network) => network.endsWith("/0"))) {
    problems.push(["TRUSTED_PROXIES", "must not trust every address in production"]);
  }
  if (values.CALLORA_DEV_USER_HEADER) {
    problems.push([
      "CALLORA_DEV_USER_HEADER",
      "must be 0 in production: it lets anybody be anybody",
    ]);
  }
  if (values.CALLORA_TEST_CLOCK_OFFSET_MS) {
    problems.push(["CALLORA_TEST_CLOCK_OFFSET_MS", "must be 0 in production: it is for tests"]);
  }
  return problems;
}

function isLoopback(host = defaultHost): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

/** A name of somebody else's making, fit for one line. */
function printable(name: string): string {
  return name.replace(/[^\x21-\x7e]/g, "?").slice(0, 80);
}

/** Nobody knows whether several servers share a directory: in production somebody has to say so. */
function archiveDir({ CALLORA_ARCHIVE_DIR: directory, ...values }: Values): string | undefined {
  if (directory !== undefined) {
    return directory === "none" ? undefined : directory;
  }
  const isProduction = values.NODE_ENV === "production";
  return isProduction ? undefined : join(values.CALLORA_DATA_DIR ?? dataDirDefault, "archive");
}

function toConfig(values: Values): Config {
  const isDevelopment = values.NODE_ENV === "development";
  const network = values.STELLAR_NETWORK;
  return {
    environment: values.NODE_ENV,
    logLevel: values.LOG_LEVEL,
    dataDir: values.CALLORA_DATA_DIR ?? dataDirDefault,
    server: {
      host: values.HOST ?? defaultHost,
      port: values.PORT,
      corsOrigins: values.CORS_ORIGINS ?? [],
      trustedProxies: values.TRUSTED_PROXIES ?? [],
      tls:
        values.TLS_CERT === undefined || values.TLS_KEY === undefined
          ? undefined
          : { cert: values.TLS_CERT, key: values.TLS_KEY, clientCa: values.TLS_CLIENT_CA },
      shutdownGraceMs: values.SHUTDOWN_GRACE_MS,
      publicUrl: values.PUBLIC_URL,
      devUserHeader: values.CALLORA_DEV_USER_HEADER,
    },
    database:
      values.DATABASE_URL === undefined ? undefined : toDatabase(values.DATABASE_URL, values),
    redisUrl: values.REDIS_URL,
    rateLimitRedisAway: values.RATE_LIMIT_REDIS_AWAY,
    secrets: {
      secretKey: values.SECRET_KEY,
      encryptionKeys: values.ENCRYPTION_KEYS ?? [],
      metricsApiKey: values.METRICS_API_KEY,
    },
    github: toGithub(values),
    externalIssuers: values.EXTERNAL_ISSUERS ?? [],
    admin: {
      username: values.CALLORA_ADMIN_USERNAME ?? "admin",
      password: values.CALLORA_ADMIN_PASSWORD,
    },
    stellar: {
      network,
      horizonUrl: values.HORIZON_URL ?? defaultHorizonUrl[network],
      sorobanRpcUrl: values.SOROBAN_RPC_URL,
      treasurySecret: values.STELLAR_TREASURY_SECRET,
      channelSecret: values.STELLAR_CHANNEL_SECRET,
      assetCode: values.STELLAR_ASSET_CODE ?? "USDC",
      assetIssuer: values.STELLAR_ASSET_ISSUER,
      devnetPort: values.STELLAR_DEVNET_PORT,
      homeDomain: values.STELLAR_HOME_DOMAIN ?? "localhost",
      webAuthSecret: values.STELLAR_WEB_AUTH_SECRET,
    },
    platformFeeBasisPoints: values.PLATFORM_FEE_BASIS_POINTS,
    debtLimitNanos: BigInt(values.DEBT_LIMIT_NANOS),
    archiveDir: archiveDir(values),
    journalKeepDays: values.JOURNAL_KEEP_DAYS,
    eventsKeepMonths: values.EVENTS_KEEP_MONTHS,
    gateway: {
      allowPrivateUpstreams:
        values.GATEWAY_ALLOW_PRIVATE_UPSTREAMS ?? (isDevelopment ? loopbackNetworks : []),
      upstreamTimeoutMs: values.GATEWAY_UPSTREAM_TIMEOUT_MS,
      host: values.GATEWAY_HOST?.toLowerCase(),
      connectionsMax: values.GATEWAY_CONNECTIONS_MAX,
      callsMax: values.GATEWAY_CALLS_MAX,
      asyncPendingMax: values.GATEWAY_ASYNC_PENDING_MAX,
    },
    testClockOffsetMs: values.CALLORA_TEST_CLOCK_OFFSET_MS,
  };
}

function toGithub(values: Values): Config["github"] {
  const { GITHUB_CLIENT_ID: clientId, GITHUB_CLIENT_SECRET: clientSecret } = values;
  if (clientId === undefined || clientSecret === undefined) {
    return undefined;
  }
  return {
    clientId,
    clientSecret,
    url: values.GITHUB_URL ?? "https://github.com",
    apiUrl: values.GITHUB_API_URL ?? "https://api.github.com",
  };
}

const loopbackNetworks = ["127.0.0.0/8", "::1/128"];

function toDatabase(url: string, values: Values): Config["database"] {
  return {
    url,
    workerUrl: values.DATABASE_WORKER_URL ?? url,
    migrateUrl: values.DATABASE_MIGRATE_URL ?? url,
    listenUrl: values.DATABASE_LISTEN_URL ?? values.DATABASE_WORKER_URL ?? url,
  };
}
