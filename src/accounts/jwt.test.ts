import { createHmac, generateKeyPairSync, hkdfSync, sign } from "node:crypto";
import { expect, test } from "vitest";
import { createJwtKeeper, jwtSeconds } from "./jwt.ts";

const secretKey = "a secret key of a test, long enough";
const keeper = createJwtKeeper(secretKey);
const now = new Date("2026-11-22T00:00:00Z");
const claims = { userId: "usr_1", sessionId: "ses_1" };

/** What an attacker who knew the key could sign: shows that only the changed part is to blame. */
const key = Buffer.from(hkdfSync("sha256", secretKey, "", "callora jwt key v1", 32));

const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
const decode = (text: string): Record<string, unknown> =>
  JSON.parse(Buffer.from(text, "base64url").toString());

test("a token says who signed in, and by which session", async () => {
  const token = await keeper.sign(claims, now);

  expect(await keeper.verify(token, now)).toEqual(claims);
  expect(await createJwtKeeper(secretKey).verify(token, now)).toEqual(claims);
});

test("a token holds for 15 minutes, to the second", async () => {
  const token = await keeper.sign(claims, now);
  const after = (seconds: number) => new Date(now.getTime() + seconds * 1000);

  expect(await keeper.verify(token, after(jwtSeconds - 1))).toEqual(claims);
  expect(await keeper.verify(token, after(jwtSeconds))).toBeNull();
});

interface Change {
  header?: Record<string, unknown>;
  payload?: Record<string, unknown>;
  signWith?: (text: string) => Buffer;
}

const hmac =
  (secret: Buffer | string, hash = "sha256") =>
  (text: string) =>
    createHmac(hash, secret).update(text).digest();
const pair = generateKeyPairSync("rsa", { modulusLength: 2048 });
const publicPem = pair.publicKey.export({ type: "spki", format: "pem" });

/** Sign what our own keeper signed once more, with the change. */
async function forge({ header, payload, signWith = hmac(key) }: Change): Promise<string> {
  const [first = "", second = ""] = (await keeper.sign(claims, now)).split(".");
  const head = encode({ ...decode(first), ...header });
  const body = encode({ ...decode(second), ...payload });
  return `${head}.${body}.${signWith(`${head}.${body}`).toString("base64url")}`;
}

test("a forger with the key and no change is believed: what follows fails for its change", async () => {
  expect(await keeper.verify(await forge({}), now)).toEqual(claims);
});

const seconds = now.getTime() / 1000;

const attacks: Readonly<Record<string, Change>> = {
  "no algorithm": { header: { alg: "none" }, signWith: () => Buffer.alloc(0) },
  "no algorithm, in capitals": { header: { alg: "NONE" }, signWith: () => Buffer.alloc(0) },
  "an empty signature": { signWith: () => Buffer.alloc(0) },
  HS384: { header: { alg: "HS384" }, signWith: hmac(key, "sha384") },
  HS512: { header: { alg: "HS512" }, signWith: hmac(key, "sha512") },
  "a public key as the shared secret": { signWith: hmac(publicPem.toString()) },
  "RS256 with a key of its own": {
    header: { alg: "RS256", jwk: pair.publicKey.export({ format: "jwk" }) },
    signWith: (text) => sign("sha256", Buffer.from(text), pair.privateKey),
  },
  "the key of another server": { signWith: hmac("another secret") },
  "another key id": { header: { kid: "0000000000000000" } },
  "no key id": { header: { kid: undefined } },
  "a path as key id": { header: { kid: "../../dev/null" }, signWith: hmac("") },
  "another type": { header: { typ: "at+jwt" } },
  "a critical extension": { header: { crit: ["x"], x: 1 } },
  "another issuer": { payload: { iss: "https://evil.example" } },
  "no issuer": { payload: { iss: undefined } },
  "another audience": { payload: { aud: "somebody" } },
  "no audience": { payload: { aud: undefined } },
  "no end": { payload: { exp: undefined } },
  "an end in the past": { payload: { exp: seconds - 1 } },
  "an end that is no number": { payload: { exp: "9999999999" } },
  "a begin in the future": { payload: { nbf: seconds + 3600 } },
  "no session": { payload: { sid: undefined } },
  "a session that is no text": { payload: { sid: ["ses_1"] } },
  nobody: { payload: { sub: undefined } },
};

test.for(Object.entries(attacks))("a token with %s is refused", async ([, change]) => {
  expect(await keeper.verify(await forge(change), now)).toBeNull();
});

test.for(["", ".", "..", "a.b.c", "null", "e30.e30.e30", "x".repeat(10_000)])(
  "the text %j is no token",
  async (text) => {
    expect(await keeper.verify(text, now)).toBeNull();
  },
);
