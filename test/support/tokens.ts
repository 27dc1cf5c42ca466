import { createJwtKeeper } from "../../src/accounts/jwt.ts";
import { insertServiceToken } from "../../src/accounts/service-token-store.ts";
import { openSession } from "../../src/accounts/session.ts";
import { mintToken } from "../../src/accounts/token.ts";
import { insertToken } from "../../src/accounts/token-store.ts";
import type { Database } from "../../src/db/database.ts";
import { newId } from "../../src/lib/id.ts";
import { secretKey } from "./secret.ts";

/** Make an API token of a person, past the limits: sign-in takes few calls from an address, and tests have one. */
export async function makeToken(
  db: Database,
  { accountId, userId }: { accountId: string; userId: string },
): Promise<string> {
  const { token, hash } = mintToken("ora");
  const tenant = { accountId, actor: userId, ip: "", requestId: "", action: "" };
  const id = newId("tok", new Date());
  await db.tenantTransaction({ ...tenant, audited: () => {} }, (tx) =>
    insertToken(tx, { accountId, id, userId, name: "test", hash, expireAt: null }),
  );
  return token;
}

/** Open a session of a person, past the limits, as if they had signed in at the time. */
export async function makeSession(
  db: Database,
  {
    accountId,
    userId,
    now = new Date(),
  }: {
    accountId: string;
    userId: string;
    now?: Date;
  },
): Promise<{ id: string; token: string }> {
  const tenant = { accountId, actor: userId, ip: "", requestId: "", action: "" };
  const session = { accountId, userId, method: "password", ip: "", now } as const;
  const id = await db.tenantTransaction({ ...tenant, audited: () => {} }, (tx) =>
    openSession(tx, session),
  );
  const token = await createJwtKeeper(secretKey).sign({ userId, sessionId: id }, now);
  return { id, token };
}

/** Make a token of an internal service. */
export async function makeServiceToken(
  db: Database,
  scopes: readonly string[],
): Promise<{ id: string; token: string }> {
  const { token, hash } = mintToken("svc");
  const id = newId("svt", new Date());
  await db.systemTransaction((tx) => insertServiceToken(tx, { id, name: "test", hash, scopes }));
  return { id, token };
}
