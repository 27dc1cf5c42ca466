import { TopicMemory } from "../../src/db/memory.ts";
import type { Trust } from "../../src/db/trust.ts";

/** Trust of a process that may remember nothing: it loads what it is asked. */
export const directTrust: Trust = {
  announce: async () => 0n,
  settled: async () => {},
  remember: (_topic, { load }) => ({
    get: async (key) => (await load([key])).get(key) ?? null,
    onForgotten: () => () => {},
    watch: () => () => {},
  }),
  stats: () => ({ hits: 0, loads: 0, refusals: 0, entries: 0, isHeld: false, losses: 0 }),
  close: async () => {},
};

/** Trust that is never lost, however long its process stands still: for what nobody changes meanwhile. */
export const heldTrust: Trust = {
  ...directTrust,
  remember: (_topic, options) =>
    new TopicMemory(options, { isHeld: () => true, onError: (error) => console.error(error) }),
};
