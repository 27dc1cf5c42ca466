import type { Tx } from "../db/pool.ts";
import type { Announcer } from "../db/trust.ts";
import { announceSessions } from "./announce-sessions.ts";
import { deleteSignInTokens } from "./login-store.ts";
import { revokeSessions } from "./session-store.ts";
import { lockPerson, type UserRow } from "./store.ts";
import { revokeTokens } from "./token-store.ts";

/**
 * End all that a person could call with, whoever has it: sessions by cookie and by signed token, API tokens, and links
 * that were mailed. Announces that, so call it last; the caller waits, after the commit, for the epoch.
 */
export async function endCredentials(
  tx: Tx,
  trust: Pick<Announcer, "announce">,
  { user, now }: { user: Pick<UserRow, "account_id" | "id">; now: Date },
): Promise<bigint> {
  const owner = { accountId: user.account_id, userId: user.id, now };
  await lockPerson(tx, owner);
  const sessionIds = await revokeSessions(tx, owner);
  const tokens = await revokeTokens(tx, owner);
  await deleteSignInTokens(tx, user.id);
  const hashes = tokens.map(({ token_hash: hash }) => hash.toString("hex"));
  await trust.announce(tx, "token", hashes);
  return announceSessions(tx, trust, sessionIds);
}
