import { createPrivateKey, randomBytes, randomInt, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import ipaddr from "ipaddr.js";
import { z } from "zod";
import type { ExternalIssuer } from "./accounts/external.ts";

/** A key that seals stored credentials. */
export interface EncryptionKey {
  /** The 1 of `1:…`. What is sealed names it. */
  readonly version: number;
  /** 32 bytes. */
  readonly key: Uint8Array;
}

// A reader takes the text of a variable, or undefined when it is not set. Its messages never quote
// the text: any of them may have been meant for another variable, and hold a secret.

/** Text. Empty counts as not set, as a compose file that passes on an unset variable makes it. */
export function text(pattern = /^[^\0\r\n]+$/, expected = "one line of text") {
  return z
    .string()
    .regex(new RegExp(`^$|${pattern.source}`, pattern.flags), `must be ${expected}`)
    .transform((value) => value || undefined)
    .optional();
}

/** Text of at least so many characters. Empty counts as not set. */
export function longText(lengthMin: number) {
  return text().refine(
    (value) => value === undefined || value.length >= lengthMin,
    `must have at least ${lengthMin} characters`,
  );
}

/** A whole number between two others. */
export function wholeNumber(min: number, max: number, initial: number) {
  const message = `must be a whole number from ${min} to ${max}`;
  return z
    .string()
    .regex(/^\d{1,15}$/, message)
    .transform(Number)
    .refine((value) => value >= min && value <= max, message)
    .default(initial);
}

/** A whole number up to a size on either side of zero. Without one: the initial. */
export function signedNumber(max: number, initial: number) {
  const message = `must be a whole number from ${-max} to ${max}`;
  return z
    .string()
    .regex(/^-?\d{1,15}$/, message)
    .transform(Number)
    .refine((value) => Math.abs(value) <= max, message)
    .default(initial);
}

/** `1` or `0`. Not set is `0`. */
export function flag() {
  return z
    .enum(["0", "1"], "must be 0 or 1")
    .default("0")
    .transform((value) => value === "1");
}

/** One of a few words. */
export function oneOf<const T extends readonly [string, ...string[]]>(
  words: T,
  initial: NoInfer<T>[number],
) {
  return z
    .enum(words, `must be ${words.join(", ").replace(/, ([^,]+)$/, " or $1")}`)
    .default(initial as never);
}

/** A URL of one of the schemes. Empty counts as not set. */
export function url(...schemes: string[]) {
  const isUrl = (value: string) => schemes.includes(URL.parse(value)?.protocol.slice(0, -1) ?? "");
  return text().refine(
    (value) => value === undefined || isUrl(value),
    `must be a URL that begins with ${schemes.map((scheme) => `${scheme}://`).join(" or ")}`,
  );
}

/** An origin, with a slash at the end or without. Empty counts as not set. */
export function origin() {
  const isOrigin = (value: string) =>
    /^https?:/.test(value) && URL.parse(value)?.origin === value.replace(/\/$/, "");
  return text()
    .refine(
      (value) => value === undefined || isOrigin(value),
      "must be of the form https://host, without a path",
    )
    .transform((value) => value?.replace(/\/$/, ""));
}

/** A comma list of origins. */
export function origins() {
  const isOrigin = (item: string) => /^https?:/.test(item) && URL.parse(item)?.origin === item;
  return list(
    (item) => (isOrigin(item) ? item : undefined),
    "must be a comma list of origins (https://console.example.com), without a path; * is not one",
  );
}

/** A comma list of networks. An address becomes the network of that address alone. */
export function networks() {
  return list(toNetwork, "must be a comma list of networks such as 10.0.0.0/8 or ::1/128");
}

/** `2:<base64 of 32 bytes>,1:…`. The first one seals. A version may be written `v2` as well. */
export function encryptionKeys() {
  const expected = "must be a comma list of 1:<base64 of 32 bytes>, each version and each key once";
  const areDistinct = (keys: readonly EncryptionKey[]) =>
    new Set(keys.map(({ version }) => version)).size === keys.length &&
    new Set(keys.map(({ key }) => Buffer.from(key).toString("hex"))).size === keys.length;
  return list(toEncryptionKey, expected).refine((keys) => areDistinct(keys ?? []), {
    message: expected,
    when: ({ value }) => Array.isArray(value),
  });
}

/** A key of a random version, so that it never passes for another one that was made before. */
export function makeEncryptionKeys(): string {
  return `${randomInt(1, 1_000_000)}:${randomBytes(32).toString("base64")}`;
}

/** A Stellar account (`G`) or secret key (`S`), with its checksum. Empty counts as not set. */
export function stellarKey(letter: "G" | "S") {
  return text().refine(
    (value) => value === undefined || isStellarKey(letter, value),
    `must be a Stellar ${letter === "S" ? "secret key" : "account"}: ${letter} and 55 characters`,
  );
}

/**
 * The path of a PEM file, which is read: a certificate, perhaps with others of its chain after it, or
 * a private key without a passphrase. Empty counts as not set.
 */
export function pemFile(kind: keyof typeof pemReaders) {
  return text().transform((path, context) => {
    if (path === undefined) {
      return undefined;
    }
    try {
      const pem = readFileSync(path, "utf8");
      pemReaders[kind](pem);
      return pem;
    } catch (error) {
      // A code of the system, such as ENOENT, or of OpenSSL.
      const code = error instanceof Error && "code" in error ? String(error.code) : "";
      const isUnread = /^E[A-Z]+$/.test(code);
      const message = isUnread
        ? `must be the path of a file that can be read (${code})`
        : `must be the path of a PEM file with a ${kind}${kind === "private key" ? " without a passphrase" : ""}`;
      context.addIssue({ code: "custom", message });
      return z.NEVER;
    }
  });
}

const pemReaders = {
  certificate: (pem: string) => new X509Certificate(pem),
  "private key": (pem: string) => createPrivateKey(pem),
};

const issuerUrl = z.url({ protocol: /^https?$/, error: "must be a URL" }).max(1_000);

const issuerList = z
  .array(
    z.strictObject({
      issuer: issuerUrl,
      audience: z.string().min(1).max(1_000),
      kind: z.enum(["oidc", "clerk"]).default("oidc"),
      jwksUrl: issuerUrl.optional(),
    }),
  )
  .max(20);

/** A JSON list of issuers of tokens. Empty counts as not set. */
export function externalIssuers() {
  const message =
    'must be a JSON list: [{"issuer": "https://...", "audience": "...", "kind": "oidc" or "clerk"}]';
  return z
    .string()
    .transform((value, context): ExternalIssuer[] => {
      const parsed = issuerList.safeParse(value.trim() === "" ? [] : parseJson(value));
      const names = new Set(parsed.data?.map(({ issuer }) => issuer));
      if (!parsed.success || names.size < parsed.data.length) {
        context.addIssue({ code: "custom", message });
        return z.NEVER;
      }
      return parsed.data.map(({ jwksUrl, ...rest }) => ({ ...rest, jwksUrl }));
    })
    .optional();
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const itemsMax = 1_000;

function list<T>(parse: (item: string) => T | undefined, message: string) {
  return z
    .string()
    .transform((value, context): T[] => {
      const items = value.trim() === "" ? [] : value.split(",").map((item) => parse(item.trim()));
      const parsed = items.filter((item) => item !== undefined);
      if (parsed.length < items.length || items.length > itemsMax) {
        context.addIssue({ code: "custom", message });
      }
      return parsed;
    })
    .optional();
}

function toNetwork(item: string): string | undefined {
  if (!ipaddr.IPv4.isValidFourPartDecimal(item.split("/")[0] ?? "") && !item.includes(":")) {
    return undefined;
  }
  if (ipaddr.isValidCIDR(item)) {
    return item;
  }
  return ipaddr.isValid(item) ? `${item}/${item.includes(":") ? 128 : 32}` : undefined;
}

function toEncryptionKey(item: string): EncryptionKey | undefined {
  const [, version, base64] = /^v?([1-9]\d{0,5}):([A-Za-z0-9+/]{43}=)$/.exec(item) ?? [];
  if (version === undefined || base64 === undefined) {
    return undefined;
  }
  const key = Buffer.from(base64, "base64");
  return key.toString("base64") === base64 ? { version: Number(version), key } : undefined;
}

function isStellarKey(letter: string, value: string): boolean {
  if (!new RegExp(`^${letter}[A-Z2-7]{55}$`).test(value)) {
    return false;
  }
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  let bits = 0n;
  for (const character of value) {
    bits = (bits << 5n) | BigInt(alphabet.indexOf(character));
  }
  const bytes = Buffer.from(bits.toString(16).padStart(70, "0"), "hex");
  return crc16(bytes.subarray(0, 33)) === bytes.readUInt16LE(33);
}

/** CRC-16/XMODEM, the checksum of Stellar's keys. */
function crc16(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) {
      crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
    }
  }
  return crc;
}
