import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, stat, symlink } from "node:fs/promises";
import { join } from "node:path";
import { Keypair } from "@stellar/stellar-sdk/base";
import { test as base, expect, inject } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { VerifyCode } from "../gen/callora/keys/v1/verification_pb.ts";
import { findLogin } from "../src/accounts/login-store.ts";
import { createPasswordHasher } from "../src/accounts/password.ts";
import { openSession } from "../src/accounts/session.ts";
import type { Database } from "../src/db/database.ts";
import { type Kind, postTransfers } from "../src/ledger/store.ts";
import { openDatabase } from "../src/server.ts";
import { upsertAddress } from "../src/settlement/store.ts";
import { openNetwork } from "../src/stellar/network.ts";
import { must } from "./support/app.ts";
import { createDatabase } from "./support/cluster.ts";
import { unbuiltServices } from "./support/contract.ts";
import { callora, makeDataDir } from "./support/process.ts";
import { queryAll } from "./support/query.ts";
import { test as withApp } from "./support/test.ts";
import { makeToken } from "./support/tokens.ts";

const timeout = 60_000;

/** `place`: a migrated database and a data directory of the test's own, and the command line that uses them. */
const test = base.extend<{ place: Place }>({
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
  place: async ({}, use) => {
    const database = await createDatabase(inject("cluster"));
    await using dir = await makeDataDir();
    const { app, owner, worker, superuser } = database.urls;
    const env = { DATABASE_URL: app, DATABASE_MIGRATE_URL: owner, DATABASE_WORKER_URL: worker };
    const db = await openDatabase(database.urls);
    await use({
      db,
      dataDir: dir.path,
      owner,
      superuser,
      run: (...args) => callora(args, { dataDir: dir.path, env }),
    });
    await db.close();
    await database.drop();
  },
});

interface Place {
  db: Database;
  dataDir: string;
  owner: string;
  superuser: string;
  run(...args: string[]): ReturnType<typeof callora>;
}

test("what is undone and applied again is the same catalogue", { timeout }, async ({ place }) => {
  const before = await catalogue(place.owner);
  const names = await migrationNames();

  const down = await place.run("migrate", "down", "--to", "0");
  const pending = await place.run("migrate", "status");
  const between = await catalogue(place.owner);
  const up = await place.run("migrate", "up");
  const applied = await place.run("migrate", "status");

  expect(down).toMatchObject({ code: 0, stderr: "" });
  expect(down.stdout).toBe(lines(names.toReversed().map((name) => `Undid ${name}`)));
  expect(pending.stdout.match(/ pending$/gm)).toHaveLength(names.length);
  // Of it all only the runner's own table is left.
  expect(between.map(({ table }) => table)).toEqual(between.map(() => "callora_migrations"));
  expect(up.stdout).toBe(lines(names.map((name) => `Applied ${name}`)));
  expect(applied.stdout.match(/ applied {2,}/g)).toHaveLength(names.length);
  expect(await catalogue(place.owner)).toEqual(before);
});

test("migrate up says so when there is nothing to do", async ({ place }) => {
  expect(await place.run("migrate", "up")).toEqual({
    code: 0,
    stdout: "Nothing to apply\n",
    stderr: "",
  });
});

test("migrate down keeps a table with rows unless it is named", { timeout }, async ({ place }) => {
  await queryAll(
    place.superuser,
    `insert into audit_logs (account_id, actor_user_id, action, resource, outcome, request_id)
     values ('a', 'b', 'c', 'd', 'done', 'e')`,
  );

  const refused = await place.run("migrate", "down", "--to", "1");
  const other = await place.run("migrate", "down", "--to", "1", "--force", "payouts");
  const kept = await queryAll(place.superuser, "select count(*)::int from audit_logs");
  const forced = await place.run("migrate", "down", "--to", "1", "--force", "audit_logs");

  for (const ended of [refused, other]) {
    expect(ended.code).toBe(1);
    expect(ended.stderr).toMatch(/^Cannot migrate: .* audit_logs, which has 1 rows; force .*\n$/);
  }
  expect(kept).toEqual([{ count: 1 }]);
  expect(forced).toMatchObject({ code: 0, stderr: "" });
});

test("verify confirms a fresh database, and names the sums that somebody changed", {
  timeout,
}, async ({ place }) => {
  const fresh = await place.run("verify");
  await queryAll(
    place.superuser,
    `set session_replication_role = replica;
     insert into ledger_transfers
       (account_id, id, mode, debit_kind, credit_kind, amount_nanos, source_type, source_id)
     values
       ('acc_x', 'trf_' || repeat('0', 26), 'live', 'clearing', 'payable', 77, 'usage', 'forged')`,
  );
  const forged = await place.run("verify");

  expect(fresh).toMatchObject({ code: 0, stderr: "" });
  expect(fresh.stdout).toMatch(/treasury in the ledger .* (\d{17}) +\1 +yes/);
  expect(forged.code).toBe(1);
  // 77 nanos left one balance and reached another, and neither says so.
  expect(forged.stderr).toBe(
    'Cannot confirm "balances that differ from their transfers = none": ' +
      "left is 154, right is 0 nano-USDC\n",
  );
  expect(forged.stdout).toMatch(/consumer charges = developer credits .* 0 +77 +NO/);
});

test("settle preview changes nothing, and settle run pays it or says why not", {
  timeout,
}, async ({ place }) => {
  const { db, dataDir } = place;
  const [rich, lost] = [`acc_${"r".repeat(26)}`, `acc_${"l".repeat(26)}`];
  await mkdir(dataDir);
  const network = await openNetwork({
    name: "embedded",
    directory: dataDir,
    port: 0,
    now: () => new Date(),
  });
  // The one account that trusts the asset from the start.
  await owe(db, {
    accountId: rich,
    amountNanos: 1_234_567_899n,
    address: network.treasury.publicKey(),
  });
  await owe(db, { accountId: lost, amountNanos: 5_000n, address: Keypair.random().publicKey() });
  await network.close();
  const rows = "select count(*)::int as count from settlements";

  const preview = await place.run("settle", "preview");
  const few = await place.run("settle", "preview", "--minimum", "6000");
  const before = await queryAll(place.superuser, rows);
  const run = await place.run("settle", "run", "--timeout", "30");
  const after = await place.run("settle", "preview");

  expect(preview).toMatchObject({ code: 0, stderr: "" });
  // 99 nanos are less than a stroop, and stay payable.
  expect(preview.stdout).toContain("2 payouts, 1.2345728 USDC\n");
  expect(few.stdout).toContain("1 payouts, 1.2345678 USDC\n");
  expect(before).toEqual([{ count: 0 }]);
  expect(run).toMatchObject({ code: 0, stderr: "" });
  expect(run.stdout).toMatch(new RegExp(`${rich} .* 1\\.2345678 +paid +[0-9a-f]{64}`));
  expect(run.stdout).toMatch(new RegExp(`${lost} .* 0\\.000005 +held +DESTINATION_MISSING`));
  expect(after.stdout).not.toContain(rich);
});

test("admin create makes somebody who may sign in, once", { timeout }, async ({ place }) => {
  const made = await place.run("admin", "create", "--username", "ada", "--role", "super_admin");
  const again = await place.run("admin", "create", "--username", "ADA");
  const bad = await place.run("admin", "create", "--username", "no spaces");

  expect(made).toMatchObject({ code: 0, stderr: "" });
  const login = await place.db.systemTransaction((tx) => findLogin(tx, "ada"));
  expect(login).toMatchObject({ username: "ada", role: "super_admin", active: true });
  expect(again).toEqual({
    code: 1,
    stdout: "",
    stderr: 'Cannot create "ADA": the name or the address is taken\n',
  });
  expect(bad.code).toBe(2);
  expect(bad.stderr).toMatch(/^Cannot create "no spaces": username .*\n$/);
  // Of the passwords only that of the one who was made is kept.
  const files = (await readdir(place.dataDir)).filter((name) => name.startsWith("password-"));
  expect(files).toEqual([expect.stringMatching(/^password-ada-\d+$/)]);
  const audit = await queryAll(place.superuser, "select action, actor_user_id from audit_logs");
  expect(audit).toEqual([{ action: "user.create", actor_user_id: "cli" }]);
});

test("admin reset gives a new password once, and ends all sessions and tokens", {
  timeout,
}, async ({ place }) => {
  await place.run("admin", "create", "--username", "ada", "--role", "admin");
  const before = must(await place.db.systemTransaction((tx) => findLogin(tx, "ada")));
  const owner = { accountId: before.account_id, userId: before.id };
  await makeToken(place.db, owner);
  for (const method of ["password", "cookie"] as const) {
    const session = { ...owner, method, ip: "", now: new Date() };
    await place.db.systemTransaction((tx) => openSession(tx, session));
  }
  const live = () =>
    queryAll(
      place.superuser,
      `select 'session' as kind from sessions where revoked_at is null
       union all select 'token' from api_tokens where revoked_at is null order by kind`,
    );
  expect(await live()).toEqual([{ kind: "session" }, { kind: "session" }, { kind: "token" }]);

  const reset = await place.run("admin", "reset", "ADA");
  const unknown = await place.run("admin", "reset", "grace");

  expect(reset).toMatchObject({ code: 0, stderr: "" });
  const file = must(/^The password is in (.*)$/m.exec(reset.stdout)?.[1]);
  const password = (await readFile(file, "utf8")).trim();
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(reset.stdout).not.toContain(password);
  const after = must(await place.db.systemTransaction((tx) => findLogin(tx, "ada")));
  const hasher = createPasswordHasher();
  expect(await hasher.verify(password, must(after.password_hash))).toBe(true);
  expect(await hasher.verify(password, must(before.password_hash))).toBe(false);
  expect(await live()).toEqual([]);
  const audit = await queryAll(
    place.superuser,
    "select action, resource, actor_user_id, account_id from audit_logs order by id desc limit 1",
  );
  expect(audit).toEqual([
    {
      action: "user.password_reset",
      resource: `user:${before.id}`,
      actor_user_id: "cli",
      account_id: before.account_id,
    },
  ]);
  expect(unknown).toEqual({
    code: 1,
    stdout: "",
    stderr: 'Cannot reset "grace": nobody has that name\n',
  });
});

withApp("keys create makes a key that works", { timeout }, async ({ app }) => {
  const developer = await app.person("DEVELOPER");
  const consumer = await app.person();
  const api = await app.api(developer);
  await using dir = await makeDataDir();
  const { app: url, owner, worker } = app.urls;
  const env = { DATABASE_URL: url, DATABASE_MIGRATE_URL: owner, DATABASE_WORKER_URL: worker };
  const create = (target: string) =>
    callora(["keys", "create", "--account", consumer.accountId, "--api", target], {
      dataDir: dir.path,
      env,
    });

  const made = await create(api.slug);
  const twice = await create(api.id);
  const unknown = await create("no-such-api");

  const [secret = ""] = /ck_live_\w+/.exec(made.stdout) ?? [];
  const reply = await fetch(`${app.url}/v1/call/${api.slug}/`, {
    headers: { "x-api-key": secret },
  });
  // The key is known; its account has no credit.
  expect(reply.status).toBe(402);
  expect(twice.code).toBe(1);
  expect(twice.stderr).toMatch(/^Cannot create a key: the account has an active live key .*\n$/);
  expect(unknown.stderr).toBe('Cannot create a key: there is no published API "no-such-api"\n');
});

withApp("services create makes a token that works", { timeout }, async ({ app }) => {
  await using dir = await makeDataDir();
  const { app: url, owner, worker } = app.urls;
  const env = { DATABASE_URL: url, DATABASE_MIGRATE_URL: owner, DATABASE_WORKER_URL: worker };
  const create = (...args: string[]) =>
    callora(["services", "create", ...args], { dataDir: dir.path, env });

  const made = await create("edge", "--scope", "keys.verify", "--scope", "usage.record");
  const wrong = await create("edge", "--scope", "everything");

  const [token = ""] = /svc_[\w-]{43}/.exec(made.stdout) ?? [];
  const { code } = await app.client(KeyService, token).verifyKey({ secret: "x" });
  expect(code).toBe(VerifyCode.NOT_FOUND);
  expect(wrong.code).toBe(2);
  expect(wrong.stderr).toContain('"everything" is no scope');
  const audit = await queryAll(
    app.urls.superuser,
    "select actor_user_id, detail from audit_logs where action = 'service_token.create'",
  );
  expect(audit).toEqual([{ actor_user_id: "cli", detail: "edge: keys.verify, usage.record" }]);
});

withApp(
  "routes lists what a server serves, and every RPC of the contract",
  { timeout },
  async ({ app }) => {
    const { code, stdout } = await callora(["routes"], { dataDir: "/nonexistent" });

    expect(code).toBe(0);
    const listed = stdout
      .trim()
      .split("\n")
      .slice(1)
      .map((line) => line.split(/ {2,}/));
    expect(listed).toHaveLength(app.routes.length);
    for (const { method, path } of app.routes) {
      expect(listed).toContainEqual(expect.arrayContaining([method, path]));
    }
    const names = new Set(listed.flat());
    expect((await contractRpcs()).filter((name) => !names.has(name))).toEqual([]);
    expect(names).toContain(`${AuthService.typeName}/PasswordLogin`);
    const places = listed.map(([method = "", path = ""]) => `${path} ${method}`);
    expect(places).toEqual(places.toSorted());
  },
);

test("routes --json says the same for programs", { timeout }, async () => {
  const { code, stdout } = await callora(["routes", "--json"], { dataDir: "/nonexistent" });

  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toContainEqual({
    method: "POST",
    path: "/api/keys",
    rpc: "callora.keys.v1.KeyService/CreateKey",
    access: "USER",
    rateClass: "CONSOLE",
  });
});

test.for([
  { line: "" },
  { line: "sideways" },
  { line: "migrate down --steps many" },
  { line: "migrate down --steps 1 --to 1" },
  { line: "keys create" },
  { line: "services create edge" },
  { line: "services create e!dge --scope keys.verify" },
])("callora $line is called wrongly: exit code 2", async ({ line }) => {
  const args = line.split(" ").filter((word) => word !== "");

  const { code, stdout, stderr } = await callora(args, { dataDir: "/nonexistent" });

  expect(code).toBe(2);
  expect(stdout).toBe("");
  expect(stderr).not.toBe("");
});

test("the launcher works from any directory and through a link", async () => {
  await using dir = await makeDataDir();
  const link = `${dir.path}-callora`;
  await symlink(join(import.meta.dirname, "..", "bin", "callora"), link);

  const version = await new Promise((resolve, reject) => {
    // The system's own paths: the Node that is found is the one beside the launcher.
    const options = { cwd: "/", env: { PATH: "/usr/local/bin:/usr/bin:/bin" } };
    execFile(link, ["--version"], options, (error, stdout) => {
      if (error === null) resolve(stdout);
      else reject(error);
    });
  });

  expect(version).toMatch(/^\d+\.\d+\.\d+\n$/);
});

/** Money that an account is owed, and where it wants it. */
async function owe(
  db: Database,
  { accountId, amountNanos, address }: { accountId: string; amountNanos: bigint; address: string },
): Promise<void> {
  const kinds: { debit: Kind; credit: Kind } = { debit: "clearing", credit: "payable" };
  const source = { type: "usage", id: accountId };
  await db.systemTransaction((tx) =>
    postTransfers(tx, [{ accountId, mode: "live", ...kinds, amountNanos, source }], new Date()),
  );
  const tenant = { accountId, actor: "", ip: "", requestId: "", action: "", audited: () => {} };
  await db.tenantTransaction(tenant, (tx) => upsertAddress(tx, accountId, address));
}

async function migrationNames(): Promise<string[]> {
  const files = await readdir("migrations");
  return files.flatMap((file) => /^(.*)\.up\.sql$/.exec(file)?.[1] ?? []).sort();
}

function lines(texts: string[]): string {
  return texts.map((text) => `${text}\n`).join("");
}

/** Each RPC that the proto files of ours declare. */
async function contractRpcs(): Promise<string[]> {
  const files = (await readdir("proto/callora", { recursive: true })).filter((file) =>
    file.endsWith("_service.proto"),
  );
  const names = await Promise.all(
    files.map(async (file) => {
      const text = await readFile(join("proto/callora", file), "utf8");
      const [, name = ""] = must(/^package (\S+);/m.exec(text));
      const [, ...services] = text.split(/^service /m);
      return services.flatMap((body) => {
        const service = body.slice(0, body.search(/\W/));
        return [...body.matchAll(/^ {2}rpc (\w+)\(/gm)].map(
          ([, rpc]) => `${name}.${service}/${rpc}`,
        );
      });
    }),
  );
  expect(names.flat().length).toBeGreaterThan(20);
  return names.flat().filter((name) => !unbuiltServices.includes(name.split("/")[0] ?? ""));
}

/** All that migrations can make in the schema: a row a thing, with what it is and the table it is of. */
function catalogue(url: string): Promise<Record<string, unknown>[]> {
  return queryAll(
    url,
    `
    select * from (
      select relname as table, 'relation' as what, relkind::text as name,
        concat_ws(' ', relacl::text, reloptions::text, relrowsecurity, relforcerowsecurity,
          case relkind when 'v' then pg_get_viewdef(oid) end) as text
      from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'm', 'S', 'p')
      union all
      select relname, 'column', attname,
        concat_ws(' ', attnum, format_type(atttypid, atttypmod), attnotnull, attidentity, attacl::text,
          pg_get_expr(adbin, adrelid))
      from pg_attribute join pg_class on pg_class.oid = attrelid
      left join pg_attrdef on adrelid = attrelid and adnum = attnum
      where relnamespace = 'public'::regnamespace and attnum > 0 and relkind in ('r', 'v', 'm', 'p')
      union all
      select relname, 'constraint', conname, pg_get_constraintdef(pg_constraint.oid)
      from pg_constraint join pg_class on pg_class.oid = conrelid
      where relnamespace = 'public'::regnamespace
      union all
      select tablename, 'index', indexname, indexdef from pg_indexes where schemaname = 'public'
      union all
      select tablename, 'policy', policyname, concat_ws(' ', permissive, roles, cmd, qual, with_check)
      from pg_policies where schemaname = 'public'
      union all
      select relname, 'trigger', tgname, pg_get_triggerdef(pg_trigger.oid)
      from pg_trigger join pg_class on pg_class.oid = tgrelid
      where relnamespace = 'public'::regnamespace and not tgisinternal
      union all
      select '', 'function', proname, concat_ws(' ', pg_get_functiondef(oid), proacl::text)
      from pg_proc where pronamespace = 'public'::regnamespace and prokind in ('f', 'p')
      union all
      select '', 'type', typname, typtype::text from pg_type
      where typnamespace = 'public'::regnamespace and typtype in ('e', 'd')
    ) as things
    order by 1, 2, 3, 4
  `,
  );
}
