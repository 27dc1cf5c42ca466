import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { parseEnv } from "node:util";
import { Keypair } from "@stellar/stellar-sdk";
import { expect, onTestFinished, test } from "vitest";
import { identity, otherKey } from "../test/support/identity.ts";
import { ConfigError, readConfig, variableNames } from "./config.ts";
import { makeEncryptionKeys } from "./config-values.ts";
import { loadEnv } from "./env-file.ts";

const pair = Keypair.random();
const [seed, account] = [pair.secret(), pair.publicKey()];
const challengeKey = Keypair.random().secret();
const keyOf = (fill: number) =>
  Buffer.from(Array.from({ length: 32 }, (_, i) => i * fill)).toString("base64");
const keys = `v1:${keyOf(1)},v2:${keyOf(3)}`;
const databaseUrl = "postgresql://callora:hunter2@db.internal/callora";
const production = {
  NODE_ENV: "production",
  DATABASE_URL: databaseUrl,
  SECRET_KEY: "0123456789abcdefghijklmnopqrstuv",
  PUBLIC_URL: "https://callora.example",
  ENCRYPTION_KEYS: keys,
  STELLAR_NETWORK: "public",
  STELLAR_TREASURY_SECRET: seed,
  STELLAR_CHANNEL_SECRET: seed,
  STELLAR_ASSET_ISSUER: account,
};

function problemsOf(env: Record<string, string | undefined>): string[] {
  try {
    readConfig(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split("\n").slice(1);
    throw error;
  }
  return [];
}

test("an empty environment makes a development server on loopback with the embedded parts", () => {
  expect(readConfig({})).toEqual({
    environment: "development",
    logLevel: "info",
    dataDir: ".callora",
    server: {
      host: "127.0.0.1",
      port: 3000,
      corsOrigins: [],
      trustedProxies: [],
      shutdownGraceMs: 10_000,
      devUserHeader: false,
    },
    database: undefined,
    redisUrl: undefined,
    rateLimitRedisAway: "keys",
    secrets: { secretKey: undefined, encryptionKeys: [], metricsApiKey: undefined },
    externalIssuers: [],
    admin: { username: "admin", password: undefined },
    stellar: {
      network: "embedded",
      horizonUrl: undefined,
      sorobanRpcUrl: undefined,
      treasurySecret: undefined,
      channelSecret: undefined,
      assetCode: "USDC",
      assetIssuer: undefined,
      devnetPort: 0,
      homeDomain: "localhost",
      webAuthSecret: undefined,
    },
    platformFeeBasisPoints: 1000,
    debtLimitNanos: 100_000_000_000n,
    archiveDir: ".callora/archive",
    journalKeepDays: 45,
    eventsKeepMonths: 13,
    gateway: {
      allowPrivateUpstreams: ["127.0.0.0/8", "::1/128"],
      upstreamTimeoutMs: 30_000,
      host: undefined,
      connectionsMax: 1_024,
      callsMax: 10_000,
      asyncPendingMax: 2_000,
    },
    testClockOffsetMs: 0,
  });
});

test("every value that is set is read", () => {
  const config = readConfig({
    ...production,
    HOST: "0.0.0.0",
    PORT: "0",
    LOG_LEVEL: "debug",
    SHUTDOWN_GRACE_MS: "0",
    CORS_ORIGINS: "https://a.example, http://localhost:5173",
    TRUSTED_PROXIES: "10.0.0.0/8,192.0.2.1,fd00::1",
    PUBLIC_URL: "https://callora.example/",
    GITHUB_CLIENT_ID: "an-app",
    GITHUB_CLIENT_SECRET: "its-secret",
    GITHUB_URL: "https://github.internal",
    DATABASE_WORKER_URL: "postgres://worker@db/callora",
    DATABASE_LISTEN_URL: "postgresql:///callora?host=/run/postgresql",
    REDIS_URL: "rediss://cache:6379",
    RATE_LIMIT_REDIS_AWAY: "local",
    METRICS_API_KEY: "scrape-me",
    PLATFORM_FEE_BASIS_POINTS: "10000",
    GATEWAY_UPSTREAM_TIMEOUT_MS: "1",
    GATEWAY_HOST: "Calls.example:8443",
    GATEWAY_CONNECTIONS_MAX: "7",
    GATEWAY_CALLS_MAX: "8",
    GATEWAY_ASYNC_PENDING_MAX: "0",
    OTEL_SERVICE_NAME: "anything",
  });

  expect(config.server).toEqual({
    host: "0.0.0.0",
    port: 0,
    corsOrigins: ["https://a.example", "http://localhost:5173"],
    trustedProxies: ["10.0.0.0/8", "192.0.2.1/32", "fd00::1/128"],
    publicUrl: "https://callora.example",
    shutdownGraceMs: 0,
    devUserHeader: false,
  });
  expect(config.github).toEqual({
    clientId: "an-app",
    clientSecret: "its-secret",
    url: "https://github.internal",
    apiUrl: "https://api.github.com",
  });
  expect(config.database).toEqual({
    url: databaseUrl,
    workerUrl: "postgres://worker@db/callora",
    migrateUrl: databaseUrl,
    listenUrl: "postgresql:///callora?host=/run/postgresql",
  });
  expect(config).toMatchObject({ redisUrl: "rediss://cache:6379", rateLimitRedisAway: "local" });
  expect(config.secrets.encryptionKeys.map(({ version }) => version)).toEqual([1, 2]);
  expect(config.secrets.encryptionKeys[1]?.key).toEqual(Buffer.from(keyOf(3), "base64"));
  expect(config.stellar.horizonUrl).toBe("https://horizon.stellar.org");
  expect(config.platformFeeBasisPoints).toBe(10_000);
  expect(config.gateway).toEqual({
    allowPrivateUpstreams: [],
    upstreamTimeoutMs: 1,
    host: "calls.example:8443",
    connectionsMax: 7,
    callsMax: 8,
    asyncPendingMax: 0,
  });
});

test("who listens acts for the background work, unless it is told where to listen", () => {
  const set = { DATABASE_URL: databaseUrl, DATABASE_WORKER_URL: "postgres://worker@db/callora" };

  expect(readConfig({ DATABASE_URL: databaseUrl }).database?.listenUrl).toBe(databaseUrl);
  expect(readConfig(set).database?.listenUrl).toBe("postgres://worker@db/callora");
});

test("the encryption keys stay in the order in which they are given: the first one seals", () => {
  const { secrets } = readConfig({
    ENCRYPTION_KEYS: `9:${keyOf(3)}, 10:${keyOf(5)},v1:${keyOf(1)}`,
  });

  expect(secrets.encryptionKeys.map(({ version }) => version)).toEqual([9, 10, 1]);
});

test("a key that is made is one that is accepted", () => {
  const made = makeEncryptionKeys();

  const { secrets } = readConfig({ ...production, ENCRYPTION_KEYS: made });

  expect(secrets.encryptionKeys).toHaveLength(1);
});

test.for([
  ["PORT", "65536"],
  ["PORT", "-1"],
  ["PORT", "3000.5"],
  ["PORT", "3e3"],
  ["PORT", ""],
  ["PORT", " 3000"],
  ["HOST", "a b"],
  ["NODE_ENV", "prod"],
  ["NODE_ENV", ""],
  ["LOG_LEVEL", "verbose"],
  ["SHUTDOWN_GRACE_MS", ""],
  ["CALLORA_DEV_USER_HEADER", "true"],
  ["CALLORA_DEV_USER_HEADER", ""],
  ["CALLORA_ADMIN_PASSWORD", "fourteen-chars"],
  ["SECRET_KEY", "x".repeat(31)],
  ["DATABASE_URL", "mysql://db/callora"],
  ["DATABASE_URL", "db.internal"],
  ["REDIS_URL", "http://cache"],
  ["RATE_LIMIT_REDIS_AWAY", "never"],
  ["HORIZON_URL", "horizon.example"],
  ["CORS_ORIGINS", "*"],
  ["CORS_ORIGINS", "https://a.example/"],
  ["CORS_ORIGINS", "https://a.example,"],
  ["TRUSTED_PROXIES", "10.0.0.0/33"],
  ["TRUSTED_PROXIES", "10.1"],
  ["TRUSTED_PROXIES", "10.0.0.0/8 10.1.0.0/16"],
  ["GATEWAY_ALLOW_PRIVATE_UPSTREAMS", "localhost"],
  ["ENCRYPTION_KEYS", keyOf(1)],
  ["ENCRYPTION_KEYS", "v1:c2hvcnQ="],
  ["ENCRYPTION_KEYS", `1:${keyOf(1)},v1:${keyOf(3)}`],
  ["ENCRYPTION_KEYS", `1:${keyOf(1)},2:${keyOf(1)}`],
  ["ENCRYPTION_KEYS", `0:${keyOf(1)}`],
  ["EXTERNAL_ISSUERS", "https://issuer.example"],
  ["EXTERNAL_ISSUERS", '[{"issuer": "https://issuer.example"}]'],
  ["EXTERNAL_ISSUERS", '[{"issuer": "ftp://issuer.example", "audience": "x"}]'],
  ["EXTERNAL_ISSUERS", '[{"issuer": "https://i.example", "audience": "x", "kind": "saml"}]'],
  ["EXTERNAL_ISSUERS", '[{"issuer": "https://i.example", "audience": "x", "jwks": "x"}]'],
  [
    "EXTERNAL_ISSUERS",
    '[{"issuer": "https://i.example", "audience": "x"}, {"issuer": "https://i.example", "audience": "y"}]',
  ],
  ["STELLAR_HOME_DOMAIN", "https://x.example/"],
  ["STELLAR_WEB_AUTH_SECRET", "SAAA"],
  ["ENCRYPTION_KEYS", `v1:${keyOf(1).replaceAll("=", "")}`],
  ["STELLAR_NETWORK", "mainnet"],
  ["STELLAR_TREASURY_SECRET", seed.replace(/.$/, (last) => (last === "A" ? "B" : "A"))],
  ["STELLAR_ASSET_ISSUER", seed],
  ["STELLAR_ASSET_CODE", "TOOLONGANASSET"],
  ["PLATFORM_FEE_BASIS_POINTS", "10001"],
  ["GATEWAY_UPSTREAM_TIMEOUT_MS", "0"],
  ["GATEWAY_HOST", "https://calls.example"],
  ["GATEWAY_CONNECTIONS_MAX", "0"],
  ["CALLORA_TEST_CLOCK_OFFSET_MS", "1h"],
  ["METRICS_API_KEY", "two words"],
] as const)("%s=%j is refused by name", ([name, value]) => {
  const problems = problemsOf({ [name]: value });

  expect(problems).toHaveLength(1);
  expect(problems[0]).toMatch(new RegExp(`^${name}: must be |^${name}: must have `));
});

test.for(
  variableNames.filter(
    (name) => !/^(HOST|.*_DIR|.*USERNAME|.*PASSWORD|SECRET_KEY|METRICS.*)$/.test(name),
  ),
)("a wrong %s is not quoted", (name) => {
  const value = "canary-7f3a secret";

  const problems = problemsOf({ [name]: value });

  expect(problems.join("\n")).toContain(name);
  expect(problems.join("\n")).not.toContain("canary");
});

test("all problems are named at once, each on its line", () => {
  const problems = problemsOf({
    PORT: "x",
    SECRET_KEY: "short",
    CALLORA_DATADIR: "/data",
    LOG_LEVEL: "",
  });

  expect(problems.map((line) => line.split(":")[0])).toEqual([
    "PORT",
    "LOG_LEVEL",
    "SECRET_KEY",
    "CALLORA_DATADIR",
  ]);
});

test("an unknown CALLORA_ variable is refused without its value, others are ignored", () => {
  expect(problemsOf({ CALLORA_ADMIN_PASWORD: "a-long-enough-password", PATH: "/bin" })).toEqual([
    "CALLORA_ADMIN_PASWORD: is not a variable that Callora knows",
  ]);
  expect(problemsOf({ "CALLORA_A\nB": "1" })).toEqual([
    "CALLORA_A?B: is not a variable that Callora knows",
  ]);
});

test.for([
  ["DATABASE_URL", { DATABASE_URL: undefined }],
  ["DATABASE_URL", { DATABASE_URL: "" }],
  ["SECRET_KEY", { SECRET_KEY: undefined }],
  ["SECRET_KEY", { SECRET_KEY: "change-me".padEnd(32, "e") }],
  ["PUBLIC_URL", { PUBLIC_URL: undefined }],
  ["PUBLIC_URL", { PUBLIC_URL: "https://callora.example/console" }],
  ["GITHUB_CLIENT_SECRET", { GITHUB_CLIENT_ID: "an-app" }],
  ["GITHUB_CLIENT_ID", { GITHUB_CLIENT_SECRET: "a-secret" }],
  ["EXTERNAL_ISSUERS", { EXTERNAL_ISSUERS: '[{"issuer": "http://i.example", "audience": "x"}]' }],
  ["ENCRYPTION_KEYS", { ENCRYPTION_KEYS: undefined }],
  ["ENCRYPTION_KEYS", { ENCRYPTION_KEYS: "" }],
  ["ENCRYPTION_KEYS", { ENCRYPTION_KEYS: `v1:${keyOf(0)}` }],
  ["STELLAR_NETWORK", { STELLAR_NETWORK: "embedded" }],
  ["STELLAR_NETWORK", { STELLAR_NETWORK: undefined }],
  ["STELLAR_TREASURY_SECRET", { STELLAR_TREASURY_SECRET: undefined }],
  ["STELLAR_CHANNEL_SECRET", { STELLAR_CHANNEL_SECRET: undefined }],
  ["STELLAR_ASSET_ISSUER", { STELLAR_ASSET_ISSUER: undefined }],
  ["STELLAR_HOME_DOMAIN", { STELLAR_WEB_AUTH_SECRET: challengeKey }],
  ["GATEWAY_ALLOW_PRIVATE_UPSTREAMS", { GATEWAY_ALLOW_PRIVATE_UPSTREAMS: "10.0.0.0/8" }],
  ["TRUSTED_PROXIES", { TRUSTED_PROXIES: "0.0.0.0/0" }],
  ["CALLORA_DEV_USER_HEADER", { CALLORA_DEV_USER_HEADER: "1" }],
  ["CALLORA_TEST_CLOCK_OFFSET_MS", { CALLORA_TEST_CLOCK_OFFSET_MS: "-3600000" }],
] as const)("production refuses %s from %j", ([name, change]) => {
  expect(problemsOf(production)).toEqual([]);

  const problems = problemsOf({ ...production, ...change });

  expect(problems).toHaveLength(1);
  expect(problems[0]).toMatch(new RegExp(`^${name}: must `));
});

test.for([
  ["127.0.0.1", true],
  ["127.8.8.8", true],
  ["localhost", true],
  ["::1", true],
  [undefined, true],
  ["", true],
  ["0.0.0.0", false],
  ["::", false],
  ["127.evil.example", false],
  ["192.168.1.2", false],
] as const)("x-user-id on HOST %j: %j", ([host, isAllowed]) => {
  const problems = problemsOf({ HOST: host, CALLORA_DEV_USER_HEADER: "1" });

  expect(problems).toHaveLength(isAllowed ? 0 : 1);
});

test("private upstreams are open in development only, and can be closed there", () => {
  const opened = (env: Record<string, string>) => readConfig(env).gateway.allowPrivateUpstreams;

  expect(opened({ NODE_ENV: "test" })).toEqual([]);
  expect(opened({ GATEWAY_ALLOW_PRIVATE_UPSTREAMS: "" })).toEqual([]);
  expect(opened({ GATEWAY_ALLOW_PRIVATE_UPSTREAMS: "10.0.0.7" })).toEqual(["10.0.0.7/32"]);
});

test("events are kept for as long as the journal that is held against them", () => {
  expect(problemsOf({ JOURNAL_KEEP_DAYS: "400" })).toEqual([
    "EVENTS_KEEP_MONTHS: must be at least 17 when JOURNAL_KEEP_DAYS is 400",
  ]);
  expect(problemsOf({ EVENTS_KEEP_MONTHS: "3" })).toEqual([
    "EVENTS_KEEP_MONTHS: must be at least 4 when JOURNAL_KEEP_DAYS is 45",
  ]);
  expect(readConfig({ JOURNAL_KEEP_DAYS: "400", EVENTS_KEEP_MONTHS: "17" }).journalKeepDays).toBe(
    400,
  );
});

test("another database URL without the main one is refused", () => {
  expect(problemsOf({ DATABASE_MIGRATE_URL: databaseUrl })).toEqual([
    "DATABASE_URL: must be set when DATABASE_MIGRATE_URL is",
  ]);
});

test(".env.example names every variable, and as it stands changes nothing", () => {
  const example = readFileSync(new URL("../.env.example", import.meta.url), "utf8");
  const named = [...example.matchAll(/^(?:# )?([A-Z_]+)=/gm)].map(([, name]) => name);

  expect(named.filter((name) => !name?.startsWith("OTEL_")).toSorted()).toEqual(
    variableNames.toSorted(),
  );
  expect(readConfig(parseEnv(example))).toEqual(readConfig({}));
});

test("loadEnv reads the folder's .env, and what is set already wins", async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), "callora-env-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const names = ["ENV_FILE_TEST_SET", "ENV_FILE_TEST_NEW"] as const;
  onTestFinished(() => {
    for (const name of names) delete process.env[name];
  });
  process.env[names[0]] = "before";

  expect(loadEnv(folder)).toBe(false);
  await writeFile(path.join(folder, ".env"), `${names[0]}=after\n${names[1]}=new\n`);

  expect(loadEnv(folder)).toBe(true);
  expect(names.map((name) => process.env[name])).toEqual(["before", "new"]);
});

test("TLS is on with a certificate and its key, each from its file", async () => {
  const { cert, key } = await tlsFiles();

  expect(readConfig({ TLS_CERT: cert, TLS_KEY: key }).server.tls).toEqual(identity);
  expect(readConfig({ TLS_CERT: "", TLS_KEY: "" }).server.tls).toBeUndefined();
  expect(
    readConfig({ TLS_CERT: cert, TLS_KEY: key, TLS_CLIENT_CA: cert }).server.tls?.clientCa,
  ).toBe(identity.cert);
});

test("what is wrong with the files for TLS is said by name, and no path is quoted", async () => {
  const { folder, cert, key, other } = await tlsFiles();

  expect(problemsOf({ TLS_CERT: cert })).toEqual(["TLS_KEY: must be set when TLS_CERT is"]);
  expect(problemsOf({ TLS_KEY: key })).toEqual(["TLS_CERT: must be set when TLS_KEY is"]);
  expect(problemsOf({ TLS_CLIENT_CA: cert })).toEqual([
    "TLS_CERT: must be set when TLS_CLIENT_CA is",
  ]);
  expect(problemsOf({ TLS_CERT: path.join(folder, "none"), TLS_KEY: key })).toEqual([
    "TLS_CERT: must be the path of a file that can be read (ENOENT)",
  ]);
  expect(problemsOf({ TLS_CERT: folder, TLS_KEY: key })).toEqual([
    "TLS_CERT: must be the path of a file that can be read (EISDIR)",
  ]);
  expect(problemsOf({ TLS_CERT: key, TLS_KEY: cert })).toEqual([
    "TLS_CERT: must be the path of a PEM file with a certificate",
    "TLS_KEY: must be the path of a PEM file with a private key without a passphrase",
  ]);
  expect(problemsOf({ TLS_CERT: cert, TLS_KEY: other })).toEqual([
    "TLS_KEY: is not the key of the certificate in TLS_CERT",
  ]);
});

async function tlsFiles() {
  const folder = await mkdtemp(path.join(os.tmpdir(), "callora-tls-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const write = async (name: string, pem: string) => {
    const file = path.join(folder, name);
    await writeFile(file, pem);
    return file;
  };
  return {
    folder,
    cert: await write("cert.pem", identity.cert),
    key: await write("key.pem", identity.key),
    other: await write("other.pem", otherKey),
  };
}
