import { RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import type { Person } from "./accounts/people.ts";
import type { Memory } from "./db/memory.ts";
import { andThen } from "./lib/maybe-promise.ts";
import type { RateOverrides } from "./limits/overrides.ts";
import type { LimitDeps } from "./rpc/limit.ts";

/**
 * The rates that a caller has of their own: those of the LimitService, and below them, for what monitors ask, the one
 * that an admin gave the person. A promise only when something is not in memory.
 */
export function createOwnRates({
  overrides,
  people,
}: {
  overrides: Pick<RateOverrides, "ratesOf">;
  people: Pick<Memory<Person>, "get">;
}): NonNullable<LimitDeps["ownRates"]> {
  return (principal) => {
    const found = overrides.ratesOf(principal);
    if (principal.kind !== "user") {
      return found;
    }
    return andThen(people.get(principal.id), (person) => {
      const ownRate = person?.ownRate ?? null;
      return ownRate === null
        ? found
        : andThen(found, (own) => ({ [RateClass.MONITOR]: ownRate, ...own }));
    });
  };
}
