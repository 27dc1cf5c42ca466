/** What the database or the code said against a group, for good. */
export interface Refusal {
  /** Without values: it may be shown to whoever deals with the quarantine. */
  detail: string;
}

/**
 * Apply a list around what cannot be applied: halve a group that is refused until the refused item is alone.
 *
 * `tryGroup` either applies a whole group after those before it, or leaves no trace of it and says why. Each refused
 * item costs at most two groups for each halving. Returns the refused items, in order.
 */
export async function findRefused<T>(
  items: readonly T[],
  tryGroup: (group: readonly T[]) => Promise<Refusal | null>,
): Promise<{ item: T; refusal: Refusal }[]> {
  const refused: { item: T; refusal: Refusal }[] = [];
  const groups: (readonly T[])[] = [items];
  for (let group = groups.pop(); group !== undefined; group = groups.pop()) {
    const [first] = group;
    if (first === undefined) {
      continue;
    }
    const refusal = await tryGroup(group);
    if (refusal === null) {
      continue;
    }
    if (group.length === 1) {
      refused.push({ item: first, refusal });
    } else {
      const half = group.length >>> 1;
      groups.push(group.slice(half), group.slice(0, half));
    }
  }
  return refused;
}
