import { randomInt } from "node:crypto";
import type { Database } from "../../src/db/database.ts";
import { newPerson } from "./people.ts";

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
      token = (await newPerson(db, "super_admin")).token;
    }
    const ip = `10.${randomInt(256)}.${randomInt(256)}.${randomInt(256)}`;
    return { authorization: `Bearer ${token}`, "x-forwarded-for": ip };
  };
}
