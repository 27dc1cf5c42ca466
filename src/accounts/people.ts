import type { Database } from "../db/database.ts";
import { isId } from "../lib/id.ts";
import type { Call } from "../rpc/call.ts";
import { invalidArgument, notFound } from "../rpc/errors.ts";
import type {
  Authenticator,
  Credential,
  MemberRole,
  Role,
  UserPrincipal,
} from "../rpc/principal.ts";
import { listMemberships } from "./member-store.ts";
import { listPeopleById } from "./store.ts";
import type { Memory, Trust } from "./trust.ts";

/** What is remembered of a person. */
export interface Person {
  id: string;
  /** The person's own account. */
  accountId: string;
  role: Role;
  active: boolean;
  memberships: ReadonlyMap<string, MemberRole>;
}

const peopleMax = 50_000;

/** The memory of people, by their ids. A change of a person or of a membership is announced as `user`. */
export function rememberPeople({ db, trust }: { db: Database; trust: Trust }): Memory<Person> {
  return trust.remember<Person>("user", {
    entriesMax: peopleMax,
    async load(ids) {
      const { users, memberships } = await db.systemTransaction(async (tx) => ({
        users: await listPeopleById(tx, ids),
        memberships: await listMemberships(tx, ids),
      }));
      return new Map(
        users.map(({ id, account_id: accountId, role, active }) => {
          const own = memberships.filter(({ user_id }) => user_id === id);
          const roleIn = new Map(own.map((one) => [one.account_id, one.role]));
          return [id, { id, accountId, role, active, memberships: roleIn }];
        }),
      );
    },
  });
}

/** Whom a credential names. */
export interface SignedIn {
  userId: string;
  credential: Credential;
  credentialId: string;
}

/** Read a person's credential. Undefined when the headers carry none that it accepts. */
export type CredentialReader = (call: Call) => Promise<SignedIn | undefined>;

/**
 * Find the person whom one of the credentials names, and the account that the call acts for: the one that
 * `X-Account-Id` names, else the person's own.
 *
 * Throws NOT_FOUND for an account that the person is no member of, whether there is one or not.
 */
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
        return person?.active ? toPrincipal(person, signedIn, call) : undefined;
      }
    }
    return undefined;
  };
}

function toPrincipal(person: Person, signedIn: SignedIn, { header }: Call): UserPrincipal {
  const asked = header.get("x-account-id");
  if (asked !== null && !isId("acc", asked)) {
    const description = "must be the id of an account, and sent once";
    throw invalidArgument([{ field: "X-Account-Id", description }]);
  }
  const accountId = asked ?? person.accountId;
  const memberRole = person.memberships.get(accountId);
  if (memberRole === undefined) {
    throw notFound("the account");
  }
  return {
    kind: "user",
    id: person.id,
    accountId,
    memberRole,
    homeAccountId: person.accountId,
    role: person.role,
    mode: "live",
    credential: signedIn.credential,
    credentialId: signedIn.credentialId,
  };
}
