import type { Database } from "../db/database.ts";
import type { Memory } from "../db/memory.ts";
import type { Trust } from "../db/trust.ts";
import { isId } from "../lib/id.ts";
import { andThen } from "../lib/maybe-promise.ts";
import type { Call } from "../rpc/call.ts";
import { invalidArgument, notFound } from "../rpc/errors.ts";
import type { Rate } from "../rpc/gcra.ts";
import type {
  Authenticator,
  Credential,
  MemberRole,
  Role,
  UserPrincipal,
} from "../rpc/principal.ts";
import { listMemberships } from "./member-store.ts";
import { ownRateOf } from "./own-rate.ts";
import { listPeopleById } from "./store.ts";

/** What is remembered of a person. */
export interface Person {
  id: string;
  /** The person's own account. */
  accountId: string;
  role: Role;
  active: boolean;
  memberships: ReadonlyMap<string, MemberRole>;
  /** What an admin said of how often they may call. Null: nothing. */
  ownRate: Rate | null;
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
        users.map((user) => {
          const { id, account_id: accountId, role, active } = user;
          const own = memberships.filter(({ user_id }) => user_id === id);
          const roleIn = new Map(own.map((one) => [one.account_id, one.role]));
          return [
            id,
            { id, accountId, role, active, memberships: roleIn, ownRate: ownRateOf(user) },
          ];
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

/** Whom a credential names. Undefined when the headers carry none that the reader accepts. */
type Found = SignedIn | undefined;

/** Read a person's credential. Answers without a promise whenever memory tells. */
export type CredentialReader = (call: Call) => Found | Promise<Found>;

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
  const toCaller = (signedIn: SignedIn, call: Call) =>
    andThen(people.get(signedIn.userId), (person) =>
      person?.active ? toPrincipal(person, signedIn, call) : undefined,
    );
  /** Ask the readers from the given one on. */
  function find(call: Call, first: number): ReturnType<Authenticator> {
    for (let index = first; index < readers.length; index++) {
      const found = readers[index]?.(call);
      if (found instanceof Promise) {
        return found.then((later) =>
          later === undefined ? find(call, index + 1) : toCaller(later, call),
        );
      }
      if (found !== undefined) {
        return toCaller(found, call);
      }
    }
    return undefined;
  }
  return (call) => find(call, 0);
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
