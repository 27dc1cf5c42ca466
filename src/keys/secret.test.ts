import { expect, test } from "vitest";
import { hashSecret, isWellFormed, mintSecret } from "./secret.ts";

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
