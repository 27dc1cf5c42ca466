import { execFile } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { test as base, expect, inject } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { must, until } from "./support/app.ts";
import { createDatabase } from "./support/cluster.ts";
import { callora, clientOf, leftOn, makeDataDir, start } from "./support/process.ts";
import { queryAll } from "./support/query.ts";
import { startUpstream } from "./support/upstream.ts";

/** Several times what a busy machine needs for the longest of these. */
const timeout = 180_000;
const password = "a password for the admin";

/** `template`: a data directory on which a server was once started; tests work on copies. */
const test = base.extend<{ $file: { template: string } }>({
  template: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using dir = await makeDataDir();
      const server = start(dir.path, { CALLORA_ADMIN_PASSWORD: password });
      await server.url();
      server.kill("SIGTERM");
      await server.exited;
      await use(dir.path);
    },
    { scope: "file" },
  ],
});

test("a first start makes an admin, whom the second start still knows", { timeout }, async () => {
  await using dir = await makeDataDir();
  const first = start(dir.path, { LOG_LEVEL: "debug" });
  const isLive = await fetch(`${await first.url()}/health`);
  first.kill("SIGTERM");
  expect(await first.exited).toBe(0);
  const made = (await readFile(join(dir.path, "admin-password"), "utf8")).trim();

  const second = start(dir.path);
  await signIn(await second.url(), made);

  expect(isLive.status).toBe(200);
  expect(first.stdout).toContain('made the admin "admin"');
  expect(first.stdout + first.stderr + second.stdout + second.stderr).not.toContain(made);
  expect(second.stdout).not.toContain("made the admin");
  second.kill("SIGINT");
  expect(await second.exited).toBe(0);
  expect(await leftOn(dir.path)).toEqual([]);
});

test("a server that was killed leaves no process, and starts again", { timeout }, async ({
  template,
}) => {
  await using dir = await makeDataDir(template);
  const killed = start(dir.path);
  await killed.url();

  killed.kill("SIGKILL");
  await killed.exited;
  // At once: the postmaster of the first may still be on its way out.
  const next = start(dir.path);

  await signIn(await next.url(), password);
  next.kill("SIGTERM");
  expect(await next.exited).toBe(0);
  expect(await leftOn(dir.path)).toEqual([]);
});

test("a server whose PostgreSQL was killed gets well again", { timeout }, async ({ template }) => {
  await using dir = await makeDataDir(template);
  const server = start(dir.path);
  const url = await server.url();
  const killed = await postmasterOf(dir.path);

  process.kill(killed, "SIGKILL");
  await until(async () => ![0, killed].includes(await postmasterOf(dir.path)), 30_000);
  await until(async () => (await fetch(`${url}/health/ready`)).status === 200, 30_000);

  await signIn(url, password);
  server.kill("SIGTERM");
  expect(await server.exited).toBe(0);
  expect(await leftOn(dir.path)).toEqual([]);
});

test("a second server on a data directory refuses, naming the first", { timeout }, async ({
  template,
}) => {
  await using dir = await makeDataDir(template);
  const first = start(dir.path);
  const url = await first.url();

  const second = start(dir.path);

  expect(await second.exited).toBe(1);
  expect(second.stderr).toMatch(
    new RegExp(`^Cannot start on \\S+: process ${first.pid} .*CALLORA_DATA_DIR.*\\n$`),
  );
  expect((await fetch(`${url}/health/ready`)).status).toBe(200);
});

test("a taken port stops the start, and PostgreSQL with it", { timeout }, async ({ template }) => {
  await using dir = await makeDataDir(template);
  const taken = createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  const { port } = taken.address() as AddressInfo;

  const server = start(dir.path, { PORT: String(port) });

  expect(await server.exited).toBe(1);
  expect(server.stderr).toBe(
    `Cannot listen on port ${port}: another process does. Set PORT to another one\n`,
  );
  expect(await leftOn(dir.path)).toEqual([]);
  taken.close();
});

test("a call that runs when the server is told to stop is completed", { timeout }, async ({
  template,
}) => {
  const waiting: ServerResponse[] = [];
  await using upstream = await startUpstream((_request, response) => void waiting.push(response));
  await using dir = await makeDataDir(template);
  const server = start(dir.path);
  const url = await server.url();
  const { slug, secret } = await publish(url, upstream.url);

  const call = fetch(`${url}/v1/call/${slug}/slow`, { headers: { "x-api-key": secret } });
  await until(() => waiting.length === 1);
  server.kill("SIGTERM");
  await until(async () => (await fetch(url).catch(() => null)) === null);
  must(waiting[0]).end("late");
  const reply = await call;

  expect(reply.status).toBe(200);
  expect(await reply.text()).toBe("late");
  expect(await server.exited).toBe(0);
  expect(await leftOn(dir.path)).toEqual([]);
  const checked = await callora(["verify"], { dataDir: dir.path });
  expect(checked).toMatchObject({ code: 0, stderr: "" });
  // The call was charged although the server was stopping: 1,000,000 nanos.
  expect(checked.stdout).toMatch(/consumer charges = developer credits .* 1000000 +1000000 +yes/);
});

// The delays are drawn once, from the seed 7; between them they meet every part of a first start.
test("a start that is told to stop leaves nothing behind", { timeout }, async () => {
  await using dir = await makeDataDir();
  for (const delayMs of delays({ seed: 7, count: 5, maxMs: 1_800 })) {
    const server = start(dir.path);
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    server.kill("SIGTERM");

    const how = await server.exited;

    expect([0, "SIGTERM"], `after ${delayMs} ms: ${server.stderr}`).toContain(how);
    expect(server.stderr).toBe("");
    expect(await leftOn(dir.path)).toEqual([]);
    const files = await readdir(dir.path).catch(() => []);
    expect(files.filter((file) => file.includes(".new"))).toEqual([]);
  }
  const server = start(dir.path);
  await server.url();
  server.kill("SIGTERM");
  expect(await server.exited).toBe(0);
});

test.for([
  { env: { PORT: "abc" }, text: "Cannot start: PORT: must be a whole number from 0 to 65535" },
  {
    env: { CALLORA_TYPO: "1" },
    text: "Cannot start: CALLORA_TYPO: is not a variable that Callora knows",
  },
])("a wrong environment is one line: $text", { timeout }, async ({ env, text }) => {
  await using dir = await makeDataDir();

  const server = start(dir.path, env as unknown as Record<string, string>);

  expect(await server.exited).toBe(1);
  expect(server.stderr).toBe(`${text}\n`);
});

test.for([
  { how: "refuses", accepts: false },
  { how: "accepts and says nothing", accepts: true },
])("a DATABASE_URL whose host $how is named, without its password", { timeout }, async (row) => {
  await using dir = await makeDataDir();
  const host = createServer((socket) => void socket.on("error", () => {})).listen(0, "127.0.0.1");
  await once(host, "listening");
  const { port } = host.address() as AddressInfo;
  if (!row.accepts) {
    host.close();
    await once(host, "close");
  }
  const begun = performance.now();

  const server = start(dir.path, { DATABASE_URL: `postgres://u:sesame@127.0.0.1:${port}/callora` });

  expect(await server.exited).toBe(1);
  expect(performance.now() - begun).toBeLessThan(60_000);
  expect(server.stderr).toMatch(/^Cannot connect to the database 127.*Check DATABASE_URL\n$/);
  expect(server.stdout + server.stderr).not.toContain("sesame");
  host.close();
});

test("a database of a newer version is refused", { timeout }, async () => {
  const database = await createDatabase(inject("cluster"));
  await using dir = await makeDataDir();
  await queryAll(
    database.urls.owner,
    `insert into callora_migrations (version, name, checksum)
     select max(version) + 1, 'from_the_future', '' from callora_migrations`,
  );

  const server = start(dir.path, {
    DATABASE_URL: database.urls.app,
    DATABASE_MIGRATE_URL: database.urls.owner,
    DATABASE_WORKER_URL: database.urls.worker,
  });

  expect(await server.exited).toBe(1);
  expect(server.stderr).toMatch(/^Cannot migrate: database schema is newer \(\d{4}\) than .*\n$/);
  await database.drop();
});

test("commands beside a running server work on its database and ledger", { timeout }, async ({
  template,
}) => {
  await using dir = await makeDataDir(template);
  const server = start(dir.path);
  const url = await server.url();
  const dataDir = dir.path;

  const verified = await callora(["verify"], { dataDir });
  const created = await callora(["admin", "create", "--username", "erna", "--password-stdin"], {
    dataDir,
    input: "a password for erna\n",
  });
  const made = await callora(["admin", "create", "--username", "otto"], { dataDir });
  const settled = await callora(["settle", "run"], { dataDir });

  expect(verified).toMatchObject({ code: 0, stderr: "" });
  expect(created).toMatchObject({ code: 0, stderr: "" });
  await signIn(url, "a password for erna", "erna");
  const [, file = ""] = /Its password is in (\S+)/.exec(made.stdout) ?? [];
  const kept = (await readFile(file, "utf8")).trim();
  expect(made.stdout).not.toContain(kept);
  await signIn(url, kept, "otto");
  expect(settled).toMatchObject({ code: 0, stderr: "" });
  expect(settled.stdout).toContain("Nothing to pay");
  expect((await fetch(`${url}/health/ready`)).status).toBe(200);
});

const oldNode = await findOldNode();

test.skipIf(oldNode === undefined)("an old Node is told apart by its exit code", async () => {
  const args = ["--require", "./src/boot.cjs", "-e", "1"];
  const ended = await new Promise<{ code: unknown; stderr: string }>((resolve) => {
    execFile(must(oldNode), args, (error, _stdout, stderr) => {
      resolve({ code: error?.code, stderr });
    });
  });

  expect(ended.code).toBe(78);
  expect(ended.stderr).toMatch(/^Cannot start on Node \S+: Callora needs 24 or newer.*\n$/);
});

/** The system's Node, if it is too old for us. */
async function findOldNode(): Promise<string | undefined> {
  const file = "/usr/bin/node";
  const major = await new Promise<number>((resolve) => {
    execFile(file, ["-p", "process.versions.node"], (_error, stdout) => {
      resolve(Number.parseInt(stdout, 10));
    });
  });
  return major < 24 ? file : undefined;
}

async function signIn(url: string, secret: string, username = "admin"): Promise<string> {
  const login = { username, password: secret };
  return (await clientOf(AuthService, url).passwordLogin(login)).accessToken;
}

/** An API of the admin's, with a key and credit to call it. */
async function publish(url: string, upstreamUrl: string) {
  const token = await signIn(url, password);
  const { user } = await clientOf(AuthService, url, token).getMe({});
  const slug = "slow";
  const catalog = clientOf(CatalogService, url, token);
  const { api } = await catalog.createApi({
    name: "Slow",
    slug,
    upstreamUrl,
    callNanos: 1_000_000n,
  });
  await catalog.publishApi({ apiId: must(api).id });
  const { accountId } = must(user);
  await clientOf(CreditService, url, token).grantCredits({ accountId, amountNanos: 9_000_000n });
  const { secret } = await clientOf(KeyService, url, token).createKey({ apiId: must(api).id });
  return { slug, secret };
}

/** The postmaster's process id. 0: there is none. */
async function postmasterOf(dataDir: string): Promise<number> {
  const file = join(dataDir, "postgres", "data", "postmaster.pid");
  const text = await readFile(file, "utf8").catch(() => "");
  return Number(text.split("\n")[0]);
}

function delays({ seed, count, maxMs }: { seed: number; count: number; maxMs: number }): number[] {
  let state = seed;
  return Array.from({ length: count }, () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return Math.floor((state / 2_147_483_648) * maxMs);
  });
}
