import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, type DescService } from "@bufbuild/protobuf";
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { inject } from "vitest";
import { AuthService } from "../../gen/callora/accounts/v1/auth_service_pb.ts";
import {
  type PlatformRole,
  type User,
  UserSchema,
} from "../../gen/callora/accounts/v1/user_service_pb.ts";
import { CatalogService } from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { CreditService } from "../../gen/callora/credits/v1/credit_service_pb.ts";
import { KeyService } from "../../gen/callora/keys/v1/key_service_pb.ts";
import { createPasswordHasher } from "../../src/accounts/password.ts";
import { toUser } from "../../src/accounts/shown.ts";
import type { UserRow } from "../../src/accounts/store.ts";
import { createUser } from "../../src/accounts/users.ts";
import { createApp } from "../../src/app.ts";
import { readConfig } from "../../src/config.ts";
import { checkKeys } from "../../src/credentials/key-check.ts";
import { createSealer } from "../../src/credentials/seal.ts";
import type { Database } from "../../src/db/database.ts";
import { openTrust, type Trust } from "../../src/db/trust.ts";
import { createLogger } from "../../src/log.ts";
import { createMailer } from "../../src/mailer.ts";
import { getWatermark } from "../../src/metering/journal.ts";
import { createMetrics } from "../../src/metrics.ts";
import { openDatabase } from "../../src/server.ts";
import { enterTreasury } from "../../src/settlement/treasury.ts";
import { openNetwork } from "../../src/stellar/network.ts";
import { createDatabase } from "./cluster.ts";
import { secretKey } from "./secret.ts";
import { makeToken } from "./tokens.ts";

/** The password of everybody in tests. */
export const password = "correct horse battery";

/** Seals in tests, under version 1. */
export const testSealer = createSealer({ keys: [{ version: 1, key: Buffer.alloc(32, "test") }] });

const rowRoles = {
  UNSPECIFIED: "user",
  USER: "user",
  DEVELOPER: "developer",
  ADMIN: "admin",
  SUPER_ADMIN: "super_admin",
} satisfies Record<keyof typeof PlatformRole, UserRow["role"]>;

/** A person in a test, with the token that signs their calls. */
export interface Person extends User {
  token: string;
}

/** A server on a database and a network of its own, gone at the end of the scope. */
export async function startTestApp(
  env: Record<string, string> = {},
  { now = () => new Date() }: { now?: () => Date } = {},
) {
  const mails: { to: string; subject: string; text: string }[] = [];
  const mailFaults: Error[] = [];
  const database = await createDatabase(inject("cluster"));
  const directory = await mkdtemp(join(tmpdir(), "callora-app-"));
  const config = readConfig({ PORT: "0", CALLORA_DATA_DIR: directory, ...env });
  const lines: string[] = [];
  const log = createLogger({ level: "debug", stream: { write: (line) => lines.push(line) } });
  const db = await openDatabase(database.urls);
  const network = await openNetwork({ name: "embedded", directory, port: 0, now });
  await enterTreasury({ db, network }, now());
  await checkKeys({ db, sealer: testSealer });
  const passwords = createPasswordHasher();
  const passwordHash = await passwords.hash(password);
  const newUser = async (username: string, role: UserRow["role"]) =>
    must(
      await db.systemTransaction((tx) =>
        createUser(tx, { username, email: "", passwordHash, role }, now()),
      ),
    );
  const root = await newUser("root", "super_admin");
  const trust = await openTestTrust(db, database.urls);
  const outbox = createMailer({ config, log, now });
  const app = createApp({
    config,
    secretKey,
    sealer: testSealer,
    mail: {
      async send(mail) {
        const fault = mailFaults.shift();
        if (fault !== undefined) {
          throw fault;
        }
        mails.push(mail);
        await outbox.send(mail);
      },
    },
    db,
    trust,
    network,
    log,
    metrics: createMetrics(),
    now,
    version: "0.0.0-test",
    ownPorts: [Number(new URL(database.urls.app).port), Number(new URL(network.horizonUrl).port)],
  });
  const { port } = await app.listen({ host: "127.0.0.1", port: 0 });
  const url = `http://127.0.0.1:${port}`;

  function client<S extends DescService>(service: S, token?: string): Client<S> {
    const transport = createConnectTransport({
      baseUrl: url,
      httpVersion: "1.1",
      interceptors: [
        (next) => (req) => {
          if (token !== undefined) {
            req.header.set("authorization", `Bearer ${token}`);
          }
          return next(req);
        },
      ],
    });
    return createClient(service, transport);
  }

  async function signIn(username: string): Promise<string> {
    const { accessToken } = await client(AuthService).passwordLogin({ username, password });
    return accessToken;
  }

  let admin: Person | undefined;

  async function asPerson(row: UserRow): Promise<Person> {
    const token = await makeToken(db, { accountId: row.account_id, userId: row.id });
    return { ...create(UserSchema, toUser(row)), token };
  }

  const test = {
    url,
    db,
    trust,
    network,
    config,
    /** Where the app keeps its files. */
    directory,
    /** The database's addresses, by role. */
    urls: database.urls,
    /** The log so far, one JSON object a line. */
    lines,
    /** The mail that was sent so far. */
    mails,
    /** Why the next mails cannot be sent, the first first. */
    mailFaults,
    routes: app.routes(),
    client,
    signIn,

    /** The super admin. */
    async admin(): Promise<Person> {
      admin ??= await asPerson(root);
      return admin;
    },

    /** A new person with an account of their own, made past the limits of the calls that make people. */
    async person(role: keyof typeof PlatformRole = "USER"): Promise<Person> {
      const username = `u${randomUUID().slice(0, 12)}`;
      return asPerson(await newUser(username, rowRoles[role]));
    },

    /** A published API of the developer. */
    async api(
      developer: { token: string },
      { upstreamUrl = "http://127.0.0.1:9", callNanos = 1_000_000n } = {},
    ) {
      const catalog = client(CatalogService, developer.token);
      const slug = `a${randomUUID().slice(0, 12)}`;
      const { api } = await catalog.createApi({ name: "An API", slug, upstreamUrl, callNanos });
      const { api: published } = await catalog.publishApi({ apiId: must(api).id });
      return must(published);
    },

    /** A key of the consumer for an API. */
    async key(consumer: { token: string }, apiId: string): Promise<string> {
      const { secret } = await client(KeyService, consumer.token).createKey({ apiId });
      return secret;
    },

    /** Promotional credit for an account. */
    async grant(accountId: string, amountNanos: bigint) {
      const { token } = await test.admin();
      await client(CreditService, token).grantCredits({ accountId, amountNanos });
    },

    /** Wait until everything that is durable now is applied. Asks past the limits of the calls. */
    async applied(): Promise<void> {
      const { durable } = await db.systemTransaction(getWatermark);
      await until(async () => (await db.systemTransaction(getWatermark)).applied >= durable);
    },

    async [Symbol.asyncDispose]() {
      await app.close();
      await trust.close();
      await network.close();
      await db.close();
      await database.drop();
      await rm(directory, { recursive: true, force: true });
    },
  };

  return test;
}

/** What a process remembers of a test's database. */
export function openTestTrust(db: Database, { worker }: { worker: string }): Promise<Trust> {
  const onError = (error: unknown) => console.error(error);
  return openTrust({ db, listenUrl: worker, onError });
}

/** The value, which the test knows to be there. */
export function must<T>(value: T | undefined | null): T {
  if (value === undefined || value === null) {
    throw new Error("expected a value");
  }
  return value;
}

/**
 * Ask again, after 20 ms and then ever later up to 250 ms, until the answer is yes: at most 50 times in 10 s, as an RPC's
 * class allows 60 a minute. Throws when that takes longer.
 */
export async function until(
  ask: () => Promise<boolean> | boolean,
  withinMs = 10_000,
): Promise<void> {
  const deadline = performance.now() + withinMs;
  for (let waitMs = 20; !(await ask()); waitMs = Math.min(waitMs * 1.3, 250)) {
    if (performance.now() > deadline) {
      throw new Error(`waited ${withinMs} ms in vain`);
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}
