import { randomBytes } from "node:crypto";
import { insertAudit } from "../audit/store.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import type { Call } from "../rpc/call.ts";
import { findIdentity, type Identity, insertIdentity } from "./identity-store.ts";
import { isEmailTaken } from "./store.ts";
import { createUser } from "./users.ts";

/** What is taken over of somebody who is seen for the first time. */
export interface Newcomer {
  /** Proved to be theirs. Empty: none is. */
  email: string;
  /** What their account is called. */
  accountName: string;
  /** What their username begins with. */
  prefix: string;
}

/** Another call was first, with the same identity or the same address. */
class RacedError extends Error {
  override name = "RacedError";
}

const attemptsMax = 3;

/** Find whose identity it is. Whoever is seen for the first time becomes a person, which the audit log says. */
export async function findOrCreatePerson(
  { db, now }: { db: Database; now: () => Date },
  call: Call,
  { identity, newcomer }: { identity: Identity; newcomer: Newcomer },
): Promise<{ accountId: string; userId: string }> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await db.systemTransaction(async (tx) => {
        const known = await findIdentity(tx, identity);
        return known === null
          ? createPerson(tx, call, { identity, newcomer, now: now() })
          : { accountId: known.account_id, userId: known.user_id };
      });
    } catch (error) {
      if (!(error instanceof RacedError) || attempt >= attemptsMax) {
        throw error;
      }
    }
  }
}

async function createPerson(
  tx: Tx,
  { exchange }: Call,
  { identity, newcomer, now }: { identity: Identity; newcomer: Newcomer; now: Date },
): Promise<{ accountId: string; userId: string }> {
  const { prefix, accountName } = newcomer;
  // Whose address it is already may be somebody else: only a sign-in there proves that they are one.
  const isFree = newcomer.email !== "" && !(await isEmailTaken(tx, newcomer.email));
  const username = `${prefix}-${randomBytes(8).toString("hex")}`;
  const email = isFree ? newcomer.email : "";
  const person = {
    username,
    email,
    emailVerified: isFree,
    role: "user",
    name: accountName,
  } as const;
  const user = await createUser(tx, person, now);
  if (user === null) {
    throw new RacedError("Cannot create the person: another call took the address");
  }
  const owner = { accountId: user.account_id, userId: user.id };
  if (!(await insertIdentity(tx, identity, owner))) {
    throw new RacedError("Cannot create the person: another call did");
  }
  const { clientIp: ip, requestId } = exchange;
  const tenant = {
    accountId: user.account_id,
    actor: user.id,
    ip,
    requestId,
    action: "user.create",
  };
  await insertAudit(tx, { tenant, resource: `user:${user.id}`, detail: identity.issuer });
  return owner;
}
