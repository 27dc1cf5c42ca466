import { test as base, expect, inject } from "vitest";
import { checkKeys } from "../src/credentials/key-check.ts";
import { type ResealProgress, resealNext } from "../src/credentials/loop.ts";
import { putFields } from "../src/credentials/put.ts";
import { swapSealed } from "../src/credentials/reseal-store.ts";
import { createSealer, type Sealer } from "../src/credentials/seal.ts";
import { enabledProviders, openSecret, removeCredential } from "../src/credentials/store.ts";
import type { Database } from "../src/db/database.ts";
import { newId } from "../src/lib/id.ts";
import { openDatabase } from "../src/server.ts";
import { must } from "./support/app.ts";
import { createDatabase, type Urls } from "./support/cluster.ts";
import { asSuperuser } from "./support/superuser.ts";

/** `place`: a migrated database of the test's own, without a server. */
interface Place {
  db: Database;
  urls: Urls;
}

const test = base.extend<{ place: Place }>({
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
  place: async ({}, use) => {
    const database = await createDatabase(inject("cluster"));
    const db = await openDatabase(database.urls);
    await use({ db, urls: database.urls });
    await db.close();
    await database.drop();
  },
});

const [one, two, stranger] = [1, 2, 1].map((version, index) => ({
  version,
  key: Buffer.alloc(32, `key ${index} of the test `),
})) as [Key, Key, Key];
type Key = { version: number; key: Buffer };

const before = createSealer({ keys: [one] });
const during = createSealer({ keys: [two, one] });
const after = createSealer({ keys: [two] });

test("while all is sealed again, every read opens and no write is lost", async ({ place }) => {
  const { db } = place;
  const refs = Array.from({ length: 230 }, (_, index) => newRef(`provider-${index}`));
  for (const ref of refs) {
    await put(db, before, ref, { token: `first of ${ref.provider}` });
  }
  const written = new Map<string, string>();
  let isDone = false;

  async function read(): Promise<number> {
    let reads = 0;
    while (!isDone || reads < refs.length) {
      const ref = must(refs[reads++ % refs.length]);
      expect(await readValue(db, during, ref)).toMatch(/^(?:first|later \d+) of provider-\d+$/);
    }
    return reads;
  }
  // A process that knows both keys and still seals with the old one, beside those that seal with the new one.
  async function write(sealer: Sealer, offset: number): Promise<void> {
    for (let turn = 0; !isDone || turn < 60; turn++) {
      const ref = must(refs[(turn * 14 + offset) % refs.length]);
      const value = `later ${turn} of ${ref.provider}`;
      await put(db, sealer, ref, { token: value });
      written.set(ref.provider, value);
    }
  }
  async function reseal(): Promise<void> {
    while (await resealNext(deps(db, during), new Date())) {}
  }
  const old = createSealer({ keys: [one, two] });
  const work = [read(), write(during, 0), write(old, 7)];
  await Promise.all([reseal(), reseal()]);
  isDone = true;
  await Promise.all(work);
  await reseal();
  const progress = await lastProgress(db, during);

  expect(progress).toEqual({ left: 0, unreadable: 0 });
  expect(written.size).toBeGreaterThan(20);
  for (const ref of refs) {
    const expected = written.get(ref.provider) ?? `first of ${ref.provider}`;
    expect(await readValue(db, after, ref)).toBe(expected);
  }
});

test("a seal that was made from what is no longer stored is not written", async ({ place }) => {
  const { db } = place;
  const ref = newRef();
  await put(db, before, ref, { token: "old" });
  const { id, sealed } = await rowOf(place, ref);
  const context = { ...ref, id };
  await put(db, before, ref, { token: "new" });

  const stale = { account_id: ref.accountId, id, ...ref, sealed };
  const isWritten = await db.systemTransaction((tx) =>
    swapSealed(tx, stale, during.seal(before.open(sealed, context), context)),
  );

  expect(isWritten).toBe(false);
  expect(await readValue(db, before, ref)).toBe("new");
});

test("a round takes at most 100 and says whether there is more", async ({ place }) => {
  const { db } = place;
  for (let index = 0; index < 101; index++) {
    await put(db, before, newRef(), { token: "x" });
  }

  const rounds = [
    await resealNext(deps(db, during), new Date()),
    await resealNext(deps(db, during), new Date()),
  ];

  expect(rounds).toEqual([true, false]);
  expect(await lastProgress(db, during)).toEqual({ left: 0, unreadable: 0 });
});

test("a credential that somebody holds is left for the next round", async ({ place }) => {
  const { db } = place;
  const [held, free] = [newRef(), newRef()];
  await put(db, before, held, { token: "x" });
  await put(db, before, free, { token: "x" });

  await asSuperuser(place, async (client) => {
    await client.query("begin");
    await client.query("select from credentials where account_id = $1 for update", [
      held.accountId,
    ]);
    expect(await lastProgress(db, during)).toEqual({ left: 1, unreadable: 0 });
    await client.query("rollback");
  });

  expect(await lastProgress(db, during)).toEqual({ left: 0, unreadable: 0 });
});

test("a damaged credential is told of once, and holds up nothing", async ({ place }) => {
  const { db } = place;
  const [damaged, whole] = [newRef(), newRef()];
  await put(db, before, damaged, { token: "x" });
  await put(db, before, whole, { token: "y" });
  const { id } = await rowOf(place, damaged);
  await asSuperuser(place, (client) =>
    client.query(
      "update credentials set sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) where id = $1",
      [id],
    ),
  );
  const told: string[] = [];
  const onUnreadable = (credentialId: string) => told.push(credentialId);

  await resealNext({ ...deps(db, during), onUnreadable }, new Date());
  await resealNext({ ...deps(db, during), onUnreadable }, new Date());

  expect(told).toEqual([id]);
  expect(await lastProgress(db, during)).toEqual({ left: 0, unreadable: 1 });
  expect(await readValue(db, after, whole)).toBe("y");
  // What no key opens is no reason to keep a key.
  await checkKeys({ db, sealer: during });
  await checkKeys({ db, sealer: after });
  for (const sealer of [before, during, after]) {
    await expect(put(db, sealer, damaged, { other: "z" })).rejects.toThrow("damaged; delete it");
  }
  await remove(db, damaged);
  await put(db, after, damaged, { token: "fresh" });
  expect(await readValue(db, after, damaged)).toBe("fresh");
  expect(await lastProgress(db, after)).toEqual({ left: 0, unreadable: 0 });
});

test("another key of a known version stops the start, and changes nothing", async ({ place }) => {
  const { db } = place;
  await checkKeys({ db, sealer: before });
  await checkKeys({ db, sealer: before });
  const known = await keyVersions(place);

  const start = checkKeys({ db, sealer: createSealer({ keys: [two, stranger] }) });

  await expect(start).rejects.toThrow(
    /^Cannot start: ENCRYPTION_KEYS has another key of version 1 /,
  );
  expect(await keyVersions(place)).toEqual(known);
  expect(known).toEqual([1]);
});

test("two processes that start with different keys of a new version: one does not", async ({
  place,
}) => {
  const starts = [one, stranger].map((key) =>
    checkKeys({ db: place.db, sealer: createSealer({ keys: [key] }) }),
  );

  const outcomes = await Promise.allSettled(starts);

  expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
});

test("a version that is still in use cannot be left out: the start says how often", async ({
  place,
}) => {
  const { db } = place;
  await checkKeys({ db, sealer: before });
  await put(db, before, newRef(), { token: "x" });
  const lacking = "Cannot start: ENCRYPTION_KEYS lacks version 1, which";

  await expect(checkKeys({ db, sealer: after })).rejects.toThrow(`${lacking} 1 credential is`);
  const removed = newRef();
  await put(db, before, removed, { token: "x" });
  await expect(checkKeys({ db, sealer: after })).rejects.toThrow(`${lacking} 2 credentials are`);
  await remove(db, removed);
  await expect(checkKeys({ db, sealer: after })).rejects.toThrow(`${lacking} 1 credential is`);
  await checkKeys({ db, sealer: during });
  await resealNext(deps(db, during), new Date());

  await expect(checkKeys({ db, sealer: after })).resolves.toBeUndefined();
});

test("a sealed value that is put elsewhere in the database does not open", async ({ place }) => {
  const { db } = place;
  const [mine, theirs] = [newRef("openai"), newRef("openai")];
  const other = { ...mine, provider: "anthropic" };
  const inTest = { ...mine, environment: "test" } as const;
  for (const ref of [mine, theirs, other, inTest]) {
    await put(db, before, ref, { apiKey: "sk-x" });
  }

  for (const target of [mine, other, inTest]) {
    await asSuperuser(place, (client) =>
      client.query(
        `update credentials set sealed = (select sealed from credentials where account_id = $1)
         where account_id = $2 and provider = $3 and environment = $4`,
        [theirs.accountId, target.accountId, target.provider, target.environment],
      ),
    );
    await expect(readValue(db, before, target)).rejects.toThrow("not what was sealed there");
  }
  // All rows of the account and provider, by their own ids.
  await asSuperuser(place, (client) =>
    client.query("update credentials set id = $1 where account_id = $2", [
      newId("crd", new Date()),
      theirs.accountId,
    ]),
  );
  await expect(readValue(db, before, theirs)).rejects.toThrow("not what was sealed there");
});

test("an opened secret gives a value by its name, and shows none", async ({ place }) => {
  const { db } = place;
  const ref = newRef("openai");
  await put(db, before, ref, { apiKey: "sk-x", organization: "org" });

  const secret = must(await db.systemTransaction((tx) => openSecret(tx, before, ref)));

  expect(secret.fields.toSorted()).toEqual(["apiKey", "organization"]);
  expect([secret.value("apiKey"), secret.value("none"), secret.value("toString")]).toEqual([
    "sk-x",
    undefined,
    undefined,
  ]);
  const { inspect } = await import("node:util");
  expect(`${JSON.stringify(secret)}${inspect(secret, { depth: 9 })}`).not.toContain("sk-x");
});

test("20 first writes at once make one credential with all their fields", async ({ place }) => {
  const { db } = place;
  const ref = newRef();
  const names = Array.from({ length: 20 }, (_, index) => `field${index}`);

  await Promise.all(names.map((name) => put(db, before, ref, { [name]: name })));

  const secret = must(await db.systemTransaction((tx) => openSecret(tx, before, ref)));
  expect(secret.fields.toSorted()).toEqual(names.toSorted());
  expect(await db.tenantRead(ref.accountId, (tx) => enabledProviders(tx, ref.accountId))).toEqual([
    ref.provider,
  ]);
});

test("what was removed leaves no trace in the table after a round", async ({ place }) => {
  const { db } = place;
  const [removed, kept] = [newRef(), newRef()];
  await put(db, before, removed, { token: "x" });
  await put(db, before, kept, { token: "x" });
  await remove(db, removed);

  await resealNext(deps(db, before), new Date());

  const rows = await asSuperuser(place, async (client) => {
    const found = await client.query("select account_id from credentials");
    return found.rows.map((row) => row.account_id);
  });
  expect(rows).toEqual([kept.accountId]);
});

type Ref = ReturnType<typeof newRef>;

function newRef(provider = "provider") {
  return { accountId: newId("acc", new Date()), provider, environment: "live" as "live" | "test" };
}

function tenantOf({ accountId }: Ref) {
  return { accountId, actor: "", ip: "", requestId: "", action: "", audited: () => {} };
}

function put(db: Database, sealer: Sealer, ref: Ref, fields: Record<string, string>) {
  return db.tenantTransaction(tenantOf(ref), (tx) =>
    putFields({ tx, sealer, now: new Date() }, ref, new Map(Object.entries(fields))),
  );
}

function remove(db: Database, ref: Ref) {
  return db.tenantTransaction(tenantOf(ref), (tx) => removeCredential(tx, ref, new Date()));
}

/** The value of the field `token`, or of `apiKey`. */
async function readValue(db: Database, sealer: Sealer, ref: Ref): Promise<string | undefined> {
  const secret = await db.tenantRead(ref.accountId, (tx) => openSecret(tx, sealer, ref));
  return secret?.value("token") ?? secret?.value("apiKey");
}

function deps(db: Database, sealer: Sealer) {
  return { db, sealer, onProgress: () => {}, onUnreadable: () => {} };
}

/** Do a round, and say what it told. */
async function lastProgress(db: Database, sealer: Sealer): Promise<ResealProgress | undefined> {
  let told: ResealProgress | undefined;
  const onProgress = (progress: ResealProgress) => {
    told = progress;
  };
  await resealNext({ ...deps(db, sealer), onProgress }, new Date());
  return told;
}

function rowOf(place: Place, ref: Ref): Promise<{ id: string; sealed: Buffer }> {
  return asSuperuser(place, async (client) => {
    const { rows } = await client.query(
      "select id, sealed from credentials where account_id = $1",
      [ref.accountId],
    );
    return rows[0];
  });
}

function keyVersions(place: Place): Promise<number[]> {
  return asSuperuser(place, async (client) => {
    const { rows } = await client.query("select version from encryption_keys order by 1");
    return rows.map(({ version }) => version);
  });
}
