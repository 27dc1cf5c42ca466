import { randomUUID } from "node:crypto";
import { test as base, expect, inject } from "vitest";
import { type AuthDeps, createAuth } from "../src/accounts/auth.ts";
import { authSecret, createAuthRequests, noRequest } from "../src/accounts/auth-request.ts";
import { lateTransaction, type Statements } from "../src/accounts/late-transaction.ts";
import { createLockout } from "../src/accounts/lockout.ts";
import { findLogin } from "../src/accounts/login-store.ts";
import { createPasswordHasher, type PasswordHasher } from "../src/accounts/password.ts";
import { listLiveSessions, listSessionsByHash } from "../src/accounts/session-store.ts";
import { checkPassword } from "../src/accounts/sign-in.ts";
import { hashToken } from "../src/accounts/token.ts";
import { createUser } from "../src/accounts/users.ts";
import type { Database } from "../src/db/database.ts";
import type { Trust } from "../src/db/trust.ts";
import { createLimiter } from "../src/rpc/limiter.ts";
import { openDatabase } from "../src/server.ts";
import { must } from "./support/app.ts";
import { createDatabase } from "./support/cluster.ts";
import { directTrust } from "./support/direct-trust.ts";
import { makeToken } from "./support/tokens.ts";
import { newEmail } from "./support/visitor.ts";

const test = base.extend<{ $file: { db: Database } }>({
  db: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      const database = await createDatabase(inject("cluster"));
      const db = await openDatabase(database.urls);
      await use(db);
      await db.close();
      await database.drop();
    },
    { scope: "file" },
  ],
});

const password = "correct horse battery";
const now = () => new Date();

const newLockout = () => createLockout({ limiter: createLimiter(), isFamiliar: async () => false });

/** The hasher of the house, which counts its work. */
function countingHasher() {
  const kept = createPasswordHasher();
  const counted = { hashes: 0 };
  const passwords: PasswordHasher = {
    hash(text) {
      counted.hashes += 1;
      return kept.hash(text);
    },
    verify(text, hash) {
      counted.hashes += 1;
      return kept.verify(text, hash);
    },
  };
  return { passwords, counted };
}

async function newUser(db: Database, change: { withPassword?: boolean } = {}) {
  const { withPassword = true } = change;
  const passwordHash = await createPasswordHasher().hash(password);
  const user = { username: randomUUID(), email: newEmail(), role: "user" } as const;
  const row = await db.systemTransaction((tx) =>
    createUser(tx, { ...user, ...(withPassword ? { passwordHash } : {}) }, now()),
  );
  return must(row);
}

test("a password is checked by name and by mail address, in any case", async ({ db }) => {
  const { username, email, id } = await newUser(db);
  const deps = { db, passwords: createPasswordHasher(), lockout: newLockout() };
  const check = (name: string, word = password) =>
    checkPassword(deps, { name, password: word, ip: "", now: now() });

  expect((await check(username.toUpperCase()))?.id).toBe(id);
  expect((await check(email.toUpperCase()))?.id).toBe(id);
  expect(await check(username, `${password}.`)).toBeNull();
});

test("whoever is asked for, and whatever is wrong, one password is hashed", async ({ db }) => {
  const known = await newUser(db);
  const passwordless = await newUser(db, { withPassword: false });
  const { passwords, counted } = countingHasher();
  const deps = { db, passwords, lockout: newLockout() };
  const work: number[] = [];
  for (const [name, word] of [
    [known.username, password],
    [known.username, "a wrong password"],
    [randomUUID(), password],
    [passwordless.username, password],
    [newEmail(), password],
  ] as const) {
    const before = counted.hashes;
    await checkPassword(deps, { name, password: word, ip: "", now: now() });
    work.push(counted.hashes - before);
  }

  expect(work).toEqual([1, 1, 1, 1, 1]);
});

/** better-auth, without the server around it. */
function startAuth(db: Database, change: Partial<AuthDeps> = {}) {
  const requests = createAuthRequests();
  const { handler } = createAuth({
    db,
    trust: directTrust,
    requests,
    passwords: createPasswordHasher(),
    mails: { verifyAddress: async () => {}, resetPassword: async () => {} },
    github: undefined,
    secret: authSecret("a secret key of a test"),
    url: "http://localhost",
    origins: ["http://localhost"],
    now,
    onLog: () => {},
    ...change,
  });
  return {
    handler: (request: Request, path = "") =>
      requests.run({ ...noRequest(), path }, () => handler(request)),
  };
}

function post(path: string, body: unknown, cookie?: string): Request {
  const headers = { "content-type": "application/json", origin: "http://localhost" };
  return new Request(`http://localhost/api/auth${path}`, {
    method: "POST",
    headers: cookie === undefined ? headers : { ...headers, cookie },
    body: JSON.stringify(body),
  });
}

test("an ended session is announced by its id, in the transaction that ends it", async ({ db }) => {
  const announced: { topic: string; keys: readonly string[]; left: number }[] = [];
  const trust: Trust = {
    ...directTrust,
    async announce(tx, topic, keys) {
      const left = await listLiveSessions(tx, keys);
      announced.push({ topic, keys, left: left.length });
      return 1n;
    },
  };
  const auth = startAuth(db, { trust });
  const person = { name: "x", email: newEmail(), password };
  const signedUp = await auth.handler(post("/sign-up/email", person));
  const cookie = signedUp.headers.getSetCookie()[0]?.split(";")[0];
  const { token } = await signedUp.json();
  const hash = hashToken(token).toString("hex");
  const [session] = await db.systemTransaction((tx) => listSessionsByHash(tx, [hash]));
  expect(announced).toEqual([]);

  await auth.handler(post("/sign-out", {}, cookie));

  expect(announced).toEqual([{ topic: "session", keys: [must(session).id], left: 0 }]);
});

test("a reset announces what it ended when all else is written", async ({ db }) => {
  const mailed = Promise.withResolvers<string>();
  const announced: { topic: string; isOldPassword: boolean }[] = [];
  let before: Awaited<ReturnType<typeof findLogin>> = null;
  const trust: Trust = {
    ...directTrust,
    async announce(tx, topic) {
      const login = await findLogin(tx, must(before).email);
      const isOldPassword = login?.password_hash === before?.password_hash;
      announced.push({ topic, isOldPassword });
      return 1n;
    },
  };
  const mails = {
    verifyAddress: async () => {},
    resetPassword: async (_to: string, url: string) => mailed.resolve(url),
  };
  const auth = startAuth(db, { trust, mails });
  const email = newEmail();
  await auth.handler(post("/sign-up/email", { name: "x", email, password }));
  before = await db.systemTransaction((tx) => findLogin(tx, email));
  const { id: userId, account_id: accountId } = must(before);
  await makeToken(db, { accountId, userId });
  await auth.handler(post("/request-password-reset", { email }));
  const token = /reset-password\/([^?]+)/.exec(await mailed.promise)?.[1];

  const path = "/reset-password";
  const { status } = await auth.handler(post(path, { token, newPassword: "another one" }), path);

  expect(status).toBe(200);
  expect(announced).toEqual([
    { topic: "session", isOldPassword: false },
    { topic: "token", isOldPassword: false },
  ]);
});

test("better-auth hashes one password too, and answers alike", async ({ db }) => {
  const known = await newUser(db);
  const passwordless = await newUser(db, { withPassword: false });
  const { passwords, counted } = countingHasher();
  const auth = startAuth(db, { passwords });
  const answers: unknown[] = [];
  for (const email of [known.email, passwordless.email, newEmail()]) {
    const before = counted.hashes;
    const wrong = { email, password: "a wrong password" };
    const response = await auth.handler(post("/sign-in/email", wrong));
    answers.push([response.status, await response.text(), counted.hashes - before]);
  }

  expect(answers[0]).toEqual([401, expect.stringContaining("INVALID_EMAIL_OR_PASSWORD"), 1]);
  expect(answers).toEqual([answers[0], answers[0], answers[0]]);
});

test("a late transaction keeps all of its changes, or none", async ({ db }) => {
  const insert = (statements: Statements, name: string) =>
    statements.write((tx) => createUser(tx, { username: name, email: "", role: "user" }, now()));
  const [kept, lost, other] = [randomUUID(), randomUUID(), randomUUID()];

  await lateTransaction(db, async (statements) => {
    await insert(statements, kept);
    expect(await statements.read((tx) => findLogin(tx, kept))).not.toBeNull();
    expect(await db.systemTransaction((tx) => findLogin(tx, kept))).toBeNull();
  });
  const failed = lateTransaction(db, async (statements) => {
    await insert(statements, lost);
    await insert(statements, other);
    throw new Error("the work fails");
  });

  await expect(failed).rejects.toThrow("the work fails");
  const found = await db.systemTransaction(async (tx) => [
    await findLogin(tx, kept),
    await findLogin(tx, lost),
    await findLogin(tx, other),
  ]);
  expect(found.map((login) => login !== null)).toEqual([true, false, false]);
});

test("late transactions that changed nothing yet hold no connection", async ({ db }) => {
  const go = Promise.withResolvers<void>();
  const waiting = Array.from({ length: 50 }, () =>
    lateTransaction(db, async (statements) => {
      await statements.read((tx) => findLogin(tx, "nobody"));
      await go.promise;
      return statements.write((tx) =>
        createUser(tx, { username: randomUUID(), email: "", role: "user" }, now()),
      );
    }),
  );

  const login = await db.systemTransaction((tx) => findLogin(tx, "nobody"));
  go.resolve();

  expect(login).toBeNull();
  expect((await Promise.all(waiting)).filter((user) => user === null)).toEqual([]);
});
