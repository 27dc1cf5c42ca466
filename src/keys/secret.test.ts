import { expect, test } from "vitest";
import {
  hashSecret,
  hexOfSecret,
  isSameHash,
  isWellFormed,
  isWellFormedRouter,
  mintRouterSecret,
  mintSecret,
} from "./secret.ts";

test.for(["live", "test"] as const)("a %s secret says so, and is well formed", (mode) => {
  const { plain, prefix, hash } = mintSecret(mode);

  expect(plain).toMatch(new RegExp(`^ck_${mode}_[0-9A-Za-z]{49}$`));
  expect(isWellFormed(plain)).toBe(true);
  expect(plain.startsWith(prefix)).toBe(true);
  expect(prefix).toHaveLength(16);
  expect(hash).toEqual(hashSecret(plain));
});

test("secrets do not repeat, and use every character", () => {
  const secrets = Array.from({ length: 500 }, () => mintSecret("live").plain);

  expect(new Set(secrets).size).toBe(500);
  expect(new Set(secrets.join("").replaceAll("_", "")).size).toBe(62);
});

test("a secret with any one character changed is refused without a look-up", () => {
  const { plain } = mintSecret("live");

  for (let index = 0; index < plain.length; index++) {
    const other = plain[index] === "x" ? "y" : "x";
    const changed = plain.slice(0, index) + other + plain.slice(index + 1);
    expect(isWellFormed(changed), changed).toBe(false);
  }
});

test.for([
  "",
  "ck_live_",
  "ck_live_aaa",
  "Bearer x",
  "ck_prod_0123456789012345678901234567890123456789012345678",
])('"%s" is no secret', (text) => {
  expect(isWellFormed(text)).toBe(false);
});

test("a secret with anything around it is none", () => {
  const { plain } = mintSecret("live");

  expect(isWellFormed(` ${plain}`)).toBe(false);
  expect(isWellFormed(`${plain}\n`)).toBe(false);
  expect(isWellFormed(plain + plain)).toBe(false);
});

test("a router secret is ef_ and 64 letters, and any changed letter is noticed", () => {
  const { plain, prefix, hash } = mintRouterSecret();

  expect(plain).toMatch(/^ef_[A-Za-z]{64}$/);
  expect(prefix).toBe(plain.slice(0, 6));
  expect(hash).toEqual(hashSecret(plain));
  expect(isWellFormedRouter(plain)).toBe(true);
  expect(isWellFormed(plain)).toBe(false);
  expect(isWellFormedRouter(mintSecret("live").plain)).toBe(false);
  for (let index = 0; index < plain.length; index++) {
    const other = plain[index] === "x" ? "y" : "x";
    const changed = plain.slice(0, index) + other + plain.slice(index + 1);
    expect(isWellFormedRouter(changed), changed).toBe(false);
  }
});

test("a hash is compared as a whole", () => {
  const [one, other] = [hexOfSecret("a"), hexOfSecret("b")];

  expect(one).toBe(hashSecret("a").toString("hex"));
  expect(isSameHash(one, hexOfSecret("a"))).toBe(true);
  expect(isSameHash(one, other)).toBe(false);
  expect(isSameHash(one, one.slice(1))).toBe(false);
});
