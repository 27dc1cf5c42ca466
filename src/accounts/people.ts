import { sql } from "slonik";
import { z } from "zod";
import type { Database } from "../db/database.ts";
import type { Memory } from "../db/memory.ts";
import type { Trust } from "../db/trust.ts";
import type { Call } from "../rpc/call.ts";
import { type Authenticator, type Role, roles } from "../rpc/principal.ts";

/** What is remembered of a person. */
export interface Person {
  id: string;
  /** The person's own account. */
  accountId: string;
  role: Role;
  active: boolean;
}

const peopleMax = 50_000;

const personRow = z.object({
  id: z.string(),
  account_id: z.string(),
  role: z.enum(roles),
  active: z.boolean(),
});

/** The memory of people, by their ids. A change of a person is announced as `user`. */
export function rememberPeople({ db, trust }: { db: Database; trust: Trust }): Memory<Person> {
  return trust.remember<Person>("user", {
    entriesMax: peopleMax,
    async load(ids) {
      const rows = await db.systemTransaction((tx) =>
        tx.any(sql.type(personRow)`
          select users.id, users.account_id, users.role, users.active
          from person_directory as directory
          join users on users.account_id = directory.account_id and users.id = directory.user_id
          where directory.user_id = any(${sql.array([...ids], "text")})
        `),
      );
      return new Map(
        rows.map(({ account_id: accountId, ...row }) => [row.id, { ...row, accountId }]),
      );
    },
  });
}

/** Whom a credential names. */
export interface SignedIn {
  userId: string;
  credential: "session" | "jwt" | "token" | "wallet";
  credentialId: string;
}

/** Read a person's credential. Undefined when the headers carry none that it accepts. */
export type CredentialReader = (call: Call) => Promise<SignedIn | undefined>;

/** Find the person whom one of the credentials names. */
export function personAuthenticator({
  readers,
  people,
}: {
  readers: readonly CredentialReader[];
  people: Memory<Person>;
}): Authenticator {
  return async (call) => {
    for (const read of readers) {
      const signedIn = await read(call);
      if (signedIn !== undefined) {
        const person = await people.get(signedIn.userId);
        return person?.active
          ? {
              kind: "user",
              id: person.id,
              accountId: person.accountId,
              role: person.role,
              mode: "live",
              credential: signedIn.credential,
              credentialId: signedIn.credentialId,
            }
          : undefined;
      }
    }
    return undefined;
  };
}
