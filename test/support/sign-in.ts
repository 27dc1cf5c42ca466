import { createHmac } from "node:crypto";
import { expect } from "vitest";
import { must, type startTestApp } from "./app.ts";
import { asSuperuser } from "./superuser.ts";
import { newEmail, type Visitor, visit } from "./visitor.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

export const password = "a long enough password";
export const me = "/api/v1/auth/me";
/** Subjects of mails. */
export const verifySubject = "Confirm your address";
export const resetSubject = "Choose a new password";

/** Sign up somebody new, who has a session then. */
export async function signUp(app: App, email = newEmail()) {
  const visitor = visit(app);
  const { body } = await visitor.post("/api/auth/sign-up/email", { name: "Ada", email, password });
  const { user, token } = body as { user: { id: string }; token: string };
  return { visitor, email, userId: user.id, token };
}

export function signIn(visitor: Visitor, email: string, word = password) {
  return visitor.post("/api/auth/sign-in/email", { email, password: word });
}

/** Who is signed in. Null: nobody. */
export async function sessionOf(visitor: Visitor): Promise<unknown> {
  return (await visitor.get("/api/auth/get-session")).body;
}

/** The path of a link that was mailed, whatever the host. */
export function pathOf(link: string): string {
  const { pathname, search } = new URL(link);
  return pathname + search;
}

/** The code that an authenticator app shows (RFC 6238), written from the RFC. */
export function totp(uri: string, now = Date.now()): string {
  const secret = must(new URL(uri).searchParams.get("secret"));
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = [...secret].map((one) => alphabet.indexOf(one).toString(2).padStart(5, "0"));
  const bytes = must(bits.join("").match(/.{8}/g)).map((byte) => Number.parseInt(byte, 2));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(now / 30_000)));
  const mac = createHmac("sha1", Buffer.from(bytes)).update(counter).digest();
  const offset = must(mac.at(-1)) & 15;
  return String((mac.readUInt32BE(offset) & 0x7f_ff_ff_ff) % 1_000_000).padStart(6, "0");
}

/** Turn a second factor on, and prove it once. */
export async function enableTotp(visitor: Visitor) {
  const enabled = await visitor.post("/api/auth/two-factor/enable", { password });
  const { totpURI, backupCodes } = enabled.body as { totpURI: string; backupCodes: string[] };
  const verified = await visitor.post("/api/auth/two-factor/verify-totp", { code: totp(totpURI) });
  expect(verified.status).toBe(200);
  return { totpURI, backupCodes };
}

/** What the audit log has of a user, in order: action, detail, and the outcome unless it is done. */
export async function actionsOf(app: App, userId: string): Promise<unknown[]> {
  const { rows } = await asSuperuser(app, (client) =>
    client.query(
      `select action, resource, detail, outcome, account_id, host(ip) as ip from audit_logs
       where actor_user_id = $1 order by id`,
      [userId],
    ),
  );
  expect(rows.every((row) => /^acc_/.test(row.account_id) && row.ip !== "")).toBe(true);
  return rows.map(({ action, detail, outcome }) =>
    [action, detail, outcome === "done" ? "" : outcome].filter((word) => word !== "").join(" "),
  );
}
