import { isIP } from "node:net";
import { existsAuditFrom } from "../audit/store.ts";
import type { Tx } from "../db/pool.ts";
import { addressBlock } from "../lib/address.ts";
import type { Attempt } from "./lockout.ts";
import { findPerson } from "./store.ts";

const memoryMs = 90 * 24 * 60 * 60_000;

/** Whether the person signed in from the address, or its /64, in the last 90 days. Nobody who is no person did. */
export async function isFamiliar(
  tx: Tx,
  { subject, ip, now }: Pick<Attempt, "subject" | "ip" | "now">,
): Promise<boolean> {
  const person = await findPerson(tx, subject);
  if (person === null || isIP(ip) === 0) {
    return false;
  }
  return existsAuditFrom(tx, {
    accountId: person.account_id,
    actor: person.id,
    action: "user.login",
    network: addressBlock(ip),
    since: new Date(now.getTime() - memoryMs),
  });
}
