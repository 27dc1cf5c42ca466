import type { LastUse } from "./token-store.ts";

/** Past it a use is not noted: the next round of writing makes room. */
const usesMax = 10_000;
const batchMax = 1_000;

/** Collects when tokens were last used, so that a use costs no write of its own. */
export interface LastUses {
  note(use: LastUse): void;
  /** Take up to 1,000 uses, each token once. */
  take(): LastUse[];
}

/** Collect in memory. What a process that dies has not written is lost: it is for people to look at. */
export function createLastUses(): LastUses {
  const uses = new Map<string, LastUse>();
  return {
    note(use) {
      if (uses.has(use.id) || uses.size < usesMax) {
        uses.set(use.id, use);
      }
    },
    take() {
      const taken = [...uses.values()].slice(0, batchMax);
      for (const { id } of taken) {
        uses.delete(id);
      }
      return taken;
    },
  };
}
