import { argon2Sync } from "node:crypto";
import { expect, test } from "vitest";
import { createPasswordHasher } from "./password.ts";

const hasher = createPasswordHasher();

test("only the password itself is accepted", async () => {
  const hash = await hasher.hash("correct horse battery");

  expect(hash).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/);
  expect(await hasher.verify("correct horse battery", hash)).toBe(true);
  expect(await hasher.verify("correct horse batterY", hash)).toBe(false);
  expect(await hasher.verify("correct horse battery ", hash)).toBe(false);
  expect(await hasher.verify("", hash)).toBe(false);
});

test("two hashes of a password have nothing in common", async () => {
  const [one, two] = await Promise.all([hasher.hash("same"), hasher.hash("same")]);

  expect(one?.split("$").slice(4)).not.toEqual(two?.split("$").slice(4));
});

test("without a hash no password is accepted, after the same work", async () => {
  const hash = await hasher.hash("somebody");
  const timed = async (given: string | undefined) => {
    const begun = performance.now();
    expect(await hasher.verify("nobody", given)).toBe(false);
    return performance.now() - begun;
  };
  await timed(hash);

  const known: number[] = [];
  const unknown: number[] = [];
  for (let round = 0; round < 5; round++) {
    known.push(await timed(hash));
    unknown.push(await timed(undefined));
  }

  // The quickest of each: other work on the machine only ever adds.
  expect(Math.min(...unknown)).toBeGreaterThan(Math.min(...known) / 3);
});

test("a password of any characters and length works", async () => {
  for (const password of ["\0", "pässwörd 🐎", "x".repeat(256)]) {
    expect(await hasher.verify(password, await hasher.hash(password))).toBe(true);
  }
});

test("a hash that is not one is an error, not a refusal", async () => {
  await expect(hasher.verify("x", "plain text")).rejects.toThrow("not in PHC form");
});

test("a hash of another cost still opens: the cost is read from it", async () => {
  const nonce = Buffer.alloc(16, 7);
  const cheap = { memory: 8_192, passes: 1, parallelism: 1, tagLength: 24 };
  const tag = argon2Sync("argon2id", { message: "from before", nonce, ...cheap });
  const text = (bytes: Buffer) => bytes.toString("base64").replace(/=+$/, "");

  const hash = `$argon2id$v=19$m=8192,t=1,p=1$${text(nonce)}$${text(Buffer.from(tag))}`;

  expect(await hasher.verify("from before", hash)).toBe(true);
  expect(await hasher.verify("from after", hash)).toBe(false);
});
