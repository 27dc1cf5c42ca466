import type { Target, UpstreamSet } from "./upstream.ts";

interface Member {
  readonly target: Target;
  readonly weight: number;
  /** How far it is ahead of, or behind, its share. */
  current: number;
}

/**
 * A set that shares calls by weight, smoothly: of 5, 1 and 1 the first is not called five times in a row (the way of
 * nginx). Those without a weight are called when no other can be.
 */
export function weightedSet(list: readonly { target: Target; weight: number }[]): UpstreamSet {
  const members = list.map(({ target, weight }): Member => ({ target, weight, current: 0 }));
  const weighted = members.filter(({ weight }) => weight > 0);
  const spare = members.filter(({ weight }) => weight === 0);
  const [only] = members.length === 1 ? members : [];
  return {
    pick(tried) {
      if (only !== undefined) {
        return canTake(only, tried) ? begin(only) : null;
      }
      return pickWeighted(weighted, tried) ?? pickFirst(spare, tried);
    },
    hasOther: (tried) => members.some((member) => canTake(member, tried)),
    get retryAfterMs() {
      return members.reduce(
        (least, { target }) => Math.min(least, target.health.retryAfterMs),
        Number.POSITIVE_INFINITY,
      );
    },
  };
}

function canTake({ target }: Member, tried: readonly Target[]): boolean {
  return !target.health.isOpen && !tried.includes(target);
}

function begin({ target }: Member): Target {
  target.health.begun();
  return target;
}

function pickWeighted(members: readonly Member[], tried: readonly Target[]): Target | null {
  let best: Member | null = null;
  let total = 0;
  for (const member of members) {
    if (canTake(member, tried)) {
      member.current += member.weight;
      total += member.weight;
      if (best === null || member.current > best.current) {
        best = member;
      }
    }
  }
  if (best === null) {
    return null;
  }
  best.current -= total;
  return begin(best);
}

function pickFirst(members: readonly Member[], tried: readonly Target[]): Target | null {
  const free = members.find((member) => canTake(member, tried));
  return free === undefined ? null : begin(free);
}
