import { randomInt, randomUUID } from "node:crypto";
import { mintSessionToken } from "../../src/accounts/session.ts";
import { insertSession } from "../../src/accounts/store.ts";
import { createUser } from "../../src/accounts/users.ts";
import type { Database } from "../../src/db/database.ts";
import { must } from "./app.ts";

/** How many calls a person makes before another one takes over: well below every rate limit. */
const callsMax = 20;

/**
 * Headers of super admins who are never limited: each person makes few calls, each call has its own address. The
 * server must trust 127.0.0.1 as a proxy.
 */
export function createCaller({ db }: { db: Database }): () => Promise<Record<string, string>> {
  let calls = 0;
  let token = "";
  return async () => {
    if (calls++ % callsMax === 0) {
      token = await signInNew(db);
    }
    const ip = `10.${randomInt(256)}.${randomInt(256)}.${randomInt(256)}`;
    return { authorization: `Bearer ${token}`, "x-forwarded-for": ip };
  };
}

async function signInNew(db: Database): Promise<string> {
  const now = new Date();
  const username = randomUUID();
  const { token, hash } = mintSessionToken();
  const person = { username, email: "", passwordHash: "none", role: "super_admin" } as const;
  const user = must(await db.systemTransaction((tx) => createUser(tx, person, now)));
  const { account_id: accountId, id: userId } = user;
  const tenant = { accountId, actor: userId, ip: "", requestId: "", action: "" };
  const expireAt = new Date(now.getTime() + 3_600_000);
  await db.tenantTransaction({ ...tenant, audited: () => {} }, (tx) =>
    insertSession(tx, { tokenHash: hash, accountId, userId, expireAt }),
  );
  return token;
}
