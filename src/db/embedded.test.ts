import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  realpath,
  rm,
  stat,
  writeFile,
} from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type EmbeddedOptions, type EmbeddedPostgres, startEmbedded } from "./embedded.ts";
import { processesIn, waitUntil } from "./embedded-process.ts";

const isRoot = process.getuid?.() === 0;
const isLinux = process.platform === "linux";
const nobody = { uid: 65534, gid: 65534 };
const fast = { fsync: "off" };
const timeout = 60_000;
let base: string;
let dataDir: string;
let made = 0;

beforeAll(async () => {
  base = await realpath(await mkdtemp(path.join(os.tmpdir(), "callora-embedded-")));
  await chmod(base, 0o755);
});

beforeEach(() => {
  dataDir = path.join(base, `data-${made++}`);
});

afterAll(() => rm(base, { recursive: true, force: true, maxRetries: 5 }));

test("a second start finds what the first one stored", { timeout }, async () => {
  const first = await start();
  await query(first.urls.owner, "create table kept as select 42 as answer");
  await first.stop();
  expect(await processesIn(path.join(dataDir, "postgres/data"))).toEqual([]);
  expect(await isLeft(dataDir)).toEqual([]);

  const second = await start();
  const rows = await query(second.urls.owner, "select answer from kept");
  await second.stop();

  expect(rows).toEqual([{ answer: 42 }]);
  expect(second.urls).toEqual(first.urls);
  expect(await isLeft(dataDir)).toEqual([]);
});

test("the roles cannot lift row-level security, and only the owner creates", {
  timeout,
}, async () => {
  await using server = await use();
  const { urls } = server.postgres;

  const roles = await query(
    urls.app,
    `select rolname from pg_roles where rolname like 'callora%'
     and (rolsuper or rolbypassrls or rolcreatedb or rolcreaterole or not rolcanlogin)`,
  );
  const settings = await query(
    urls.worker,
    `select name, setting from pg_settings
     where name in ('listen_addresses', 'server_encoding', 'synchronous_commit') order by 1`,
  );

  expect(roles).toEqual([]);
  expect(settings.map((row) => row.setting)).toEqual(["127.0.0.1", "UTF8", "on"]);
  await expect(query(urls.app, "create table theirs (id int)")).rejects.toThrow(
    /permission denied/,
  );
  await query(urls.owner, "create table ours (id int)");
  const { mode } = await stat(path.join(dataDir, "postgres/passwords.json"));
  expect(mode & 0o777).toBe(0o600);
});

test("a second owner is refused at once, by the name of the first", { timeout }, async () => {
  await using _server = await use();

  const before = performance.now();
  const refused = start();

  await expect(refused).rejects.toThrow(`process ${process.pid} is already running`);
  await expect(start()).rejects.toThrow("CALLORA_DATA_DIR");
  // What waits for others to end waits 30 s.
  expect(performance.now() - before).toBeLessThan(10_000);
});

test("a stale server.pid with a reused process id stops nobody", { timeout }, async () => {
  await (await start()).stop();
  const data = path.join(dataDir, "postgres/data");
  const { uid, gid } = await stat(data);
  const options = isRoot ? { uid, gid } : {};
  const stranger = spawn("sleep", ["60"], { ...options, stdio: "ignore" });
  await once(stranger, "spawn");
  await writeFile(path.join(dataDir, "server.pid"), `${stranger.pid}\n`);
  const lines = [stranger.pid, data, 1, 5432, "", "127.0.0.1", "  1 2", "ready", ""];
  await writeFile(path.join(data, "postmaster.pid"), lines.join("\n"));

  const again = start();
  const [outcome] = await Promise.allSettled([again]);
  stranger.kill("SIGKILL");

  expect(outcome).toMatchObject({ status: "fulfilled" });
  await (await again).stop();
});

test("a taken port is replaced, and a broken setting is quoted from the log", {
  timeout,
}, async () => {
  const first = await start();
  await first.stop();
  const taker = net.createServer();
  await new Promise<void>((resolve) => taker.listen(first.port, "127.0.0.1", resolve));

  const second = await start();
  await second.stop();
  taker.close();

  expect(second.port).not.toBe(first.port);
  const broken = start({ settings: { shared_buffers: "plenty" } });
  await expect(broken).rejects.toThrow(/ended with exit code 1: .*shared_buffers.*plenty/);
  expect(await isLeft(dataDir)).toEqual([]);
});

test("a killed postmaster is restarted on its port with its data", { timeout }, async () => {
  await using server = await use();
  const { postgres } = server;
  await query(postgres.urls.owner, "create table kept as select 1 as id");
  const firstPid = postgres.pid;

  process.kill(firstPid, "SIGKILL");
  const isBack = () => query(postgres.urls.owner, "select id from kept").catch(() => null);
  expect(await waitUntil(async () => (await isBack()) !== null, 30_000)).toBe(true);

  expect(await isBack()).toEqual([{ id: 1 }]);
  expect(postgres.pid).not.toBe(firstPid);
});

test("a postmaster that keeps dying is given up and reported", { timeout }, async () => {
  const postgres = await start({ restartsPerMinuteMax: 0 });
  const lost = new Promise<Error>((resolve) => postgres.onLost(resolve));

  process.kill(postgres.pid, "SIGKILL");

  expect((await lost).message).toMatch(/ended 1 times within a minute, last with SIGKILL/);
  await postgres.stop();
  await (await start()).stop();
});

test.runIf(isLinux)("kill -9 of the owner takes PostgreSQL with it", { timeout }, async () => {
  const owner = runChild(`
    const postgres = await startEmbedded(options);
    const client = new pg.Client(postgres.urls.owner);
    await client.connect();
    await client.query("create table kept as select 7 as id");
    console.log("ready");
  `);
  await ready(owner);
  expect(await leftovers(dataDir)).not.toEqual([]);

  owner.kill("SIGKILL");
  await once(owner, "exit");
  const next = await start();
  const rows = await query(next.urls.owner, "select id from kept");
  await next.stop();

  expect(rows).toEqual([{ id: 7 }]);
  expect(await isLeft(dataDir)).toEqual([]);
});

test.runIf(isLinux)("a Ctrl-C leaves PostgreSQL to its draining owner", { timeout }, async () => {
  const owner = runChild(`
    const postgres = await startEmbedded(options);
    const client = new pg.Client(postgres.urls.owner);
    await client.connect();
    process.once("SIGINT", async () => {
      // A connection of a server that had to be started again would be broken.
      await client.query("select pg_sleep(0.3)");
      await client.end();
      await postgres.stop();
      process.exit(3);
    });
    setInterval(() => {}, 1_000);
    console.log("ready");
  `);
  await ready(owner);

  process.kill(-(owner.pid ?? 0), "SIGINT");
  const [code] = await once(owner, "exit");

  expect(code).toBe(3);
  expect(await isLeft(dataDir)).toEqual([]);
});

test.runIf(isLinux)(
  "a start that is interrupted anywhere does not stop the next",
  { timeout: 2 * timeout },
  async () => {
    const seed = Date.now() % 1_000_000;
    const random = randomFrom(seed);
    const rounds = [0, 1, 2, 3, 4];

    for (const round of rounds) {
      const interrupted = runChild('console.log("ready"); await startEmbedded(options)');
      await ready(interrupted);
      // Even rounds fall into initdb, odd ones anywhere up to a running server.
      await sleep(random() * (round % 2 === 0 ? 600 : 1_200));
      interrupted.kill(round % 3 === 2 ? "SIGKILL" : "SIGTERM");
      if (interrupted.exitCode === null && interrupted.signalCode === null) {
        await once(interrupted, "exit");
      }
      expect(await isLeft(dataDir), `seed ${seed}, round ${round}`).toEqual([]);
    }

    const next = await start();
    const rows = await query(next.urls.app, "select 1 as one");
    await next.stop();
    expect(rows, `seed ${seed}`).toEqual([{ one: 1 }]);
    expect((await readdir(dataDir)).filter((name) => name.includes(".new-"))).toEqual([]);
  },
);

test.runIf(isRoot)(
  "below a closed home the data lies elsewhere and is found again",
  { timeout },
  async () => {
    const home = path.join(base, "home");
    const stateDir = path.join(base, "state");
    await mkdir(home, { mode: 0o700 });
    const options = { dataDir: path.join(home, "callora"), stateDir };
    const first = await start(options);
    await query(first.urls.owner, "create table kept as select 5 as id");
    await first.stop();

    const second = await start(options);
    const rows = await query(second.urls.owner, "select id from kept");
    await second.stop();

    expect(rows).toEqual([{ id: 5 }]);
    expect(await readlink(path.join(home, "callora/postgres"))).toContain(stateDir);
    expect(await readdir(stateDir)).toHaveLength(1);
  },
);

test.runIf(isRoot)(
  "an ordinary user runs it as itself, a nameless one is told why not",
  { timeout },
  async () => {
    await mkdir(dataDir);
    await chown(dataDir, nobody.uid, nobody.gid);
    const script = `
    const postgres = await startEmbedded(options);
    await postgres.stop();
    console.log("ready");
  `;

    await ready(runChild(script, nobody));
    const { uid } = await stat(path.join(dataDir, "postgres/data"));
    await rm(path.join(dataDir, "postgres"), { recursive: true });
    await chmod(dataDir, 0o777);
    await rm(path.join(dataDir, "postgres.log"));
    const nameless = ready(runChild(script, { uid: 54_321, gid: 54_321 }));

    expect(uid).toBe(nobody.uid);
    await expect(nameless).rejects.toThrow(/user 54321 has no entry.*DATABASE_URL/);
  },
);

function start(options: Partial<EmbeddedOptions> = {}): Promise<EmbeddedPostgres> {
  return startEmbedded({ dataDir, settings: fast, ...options });
}

async function use(options: Partial<EmbeddedOptions> = {}) {
  const postgres = await start(options);
  return { postgres, [Symbol.asyncDispose]: () => postgres.stop() };
}

async function query(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}

/** Run a script that owns `dataDir` in a process, and a process group, of its own. */
function runChild(script: string, user = {}): ChildProcess {
  const source = `
    import pg from ${JSON.stringify(import.meta.resolve("pg"))};
    import { startEmbedded } from ${JSON.stringify(new URL("embedded.ts", import.meta.url).href)};
    const options = ${JSON.stringify({ dataDir, settings: fast })};
    void pg;
    ${script}
  `;
  return spawn(process.execPath, ["--input-type=module-typescript", "-e", source], {
    ...user,
    cwd: base,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
}

/** Wait for a child's first line; throws what it wrote to its error output if it ends without one. */
async function ready(child: ChildProcess): Promise<void> {
  let errors = "";
  child.stderr?.on("data", (chunk) => {
    errors += chunk;
  });
  const said = new Promise<true>((resolve) => child.stdout?.once("data", () => resolve(true)));
  const ended = once(child, "close").then(() => false);
  if (!(await Promise.race([said, ended]))) throw new Error(errors);
}

/** The processes that name a directory on their command line or work below it. */
async function leftovers(directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
    const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => "");
    if (command.includes(directory) || cwd.startsWith(`${directory}/`)) {
      found.push(`${pid} ${command}`);
    }
  }
  return found;
}

/** What is still there when there has been time to end: a guard ends by itself, after what it guards. */
async function isLeft(directory: string): Promise<string[]> {
  let left: string[] = [];
  await waitUntil(async () => {
    left = await leftovers(directory);
    return left.length === 0;
  }, 20_000);
  return left;
}

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
