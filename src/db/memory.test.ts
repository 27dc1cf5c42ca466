import { setImmediate as tick } from "node:timers/promises";
import fc from "fast-check";
import { expect, test } from "vitest";
import { TopicMemory } from "./memory.ts";

/** A memory over a database of numbers, whose loads read and end when they are told to. */
function createRig({ entriesMax = 100 } = {}) {
  const database = new Map<string, number>();
  const loads: { keys: readonly string[]; read: () => void; end: () => void; fail: () => void }[] =
    [];
  const errors: unknown[] = [];
  const state = { isHeld: true, isEntered: true };
  const memory = new TopicMemory<number>(
    {
      entriesMax,
      load(keys) {
        const { promise, resolve, reject } = Promise.withResolvers<ReadonlyMap<string, number>>();
        let found: Map<string, number> | undefined;
        const read = () => {
          found ??= new Map([...database].filter(([key]) => keys.includes(key)));
        };
        const end = () => {
          read();
          resolve(found ?? new Map());
        };
        loads.push({ keys, read, end, fail: () => reject(new Error("no answer")) });
        return promise;
      },
    },
    {
      isHeld: () => state.isHeld,
      onError: (error) => errors.push(error),
    },
  );
  return { database, loads, errors, state, memory };
}

/** Let everything that waits for a load under way go on. */
async function settle() {
  await tick();
  await tick();
}

type Step = { verb: string; key: string; load: number };

const weights = {
  ...{ get: 10, change: 2, announce: 1, commit: 4, send: 4, read: 3, end: 6, fail: 1 },
  ...{ late: 1, again: 3, lost: 1, enter: 2 },
};
const step: fc.Arbitrary<Step> = fc.record({
  verb: fc.oneof(
    ...Object.entries(weights).map(([verb, weight]) => ({ weight, arbitrary: fc.constant(verb) })),
  ),
  key: fc.constantFrom("a", "a", "a", "b", "c"),
  load: fc.nat(3),
});

test("no interleaving of loads, changes and announcements lets an old answer be given later", async () => {
  const seed = Date.now() % 2 ** 31;
  let answers = 0;
  let hits = 0;

  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 80 }), async (steps) => {
      const rig = createRig({ entriesMax: 3 });
      answers += await replay(rig, steps);
      hits += rig.memory.counts.hits;
    }),
    { seed, numRuns: 1_000 },
  );

  // A run that answers nothing, or nothing from memory, would find nothing.
  expect(answers).toBeGreaterThan(5_000);
  expect(hits).toBeGreaterThan(300);
});

/** Replay the steps. What a question may be answered with at least is known when it is asked. */
async function replay(
  { database, loads, state, memory }: ReturnType<typeof createRig>,
  steps: Step[],
) {
  // What was committed when the key was last announced. Without trust: what is committed.
  const announced = new Map<string, number>();
  const questions: Promise<unknown>[] = [];
  const wrong: string[] = [];
  let answers = 0;

  const change = (key: string) => database.set(key, (database.get(key) ?? 0) + 1);

  function announce(key: string) {
    // A process that is not entered hears nothing.
    if (state.isEntered) {
      memory.forget([key]);
      announced.set(key, database.get(key) ?? 0);
    }
  }

  function ask(key: string) {
    const least = (state.isHeld ? announced.get(key) : database.get(key)) ?? 0;
    const answer = Promise.resolve(memory.get(key)).then(
      (value) => {
        answers += 1;
        if ((value ?? 0) < least) wrong.push(`${key}: ${value} after ${least}`);
      },
      (error) => error,
    );
    questions.push(answer);
  }

  const verbs: Record<string, (step: Step) => unknown> = {
    get: ({ key }) => ask(key),
    change: ({ key }) => change(key),
    announce: ({ key }) => announce(key),
    commit({ key }) {
      change(key);
      announce(key);
    },
    send: () => settle(),
    read: ({ load }) => loads[load % loads.length]?.read(),
    async end({ load }) {
      loads.splice(load % Math.max(1, loads.length), 1)[0]?.end();
      await settle();
    },
    async fail({ load }) {
      loads.splice(load % Math.max(1, loads.length), 1)[0]?.fail();
      await settle();
    },
    // Its deadline passed, and it found later that it had missed nothing.
    late: () => Object.assign(state, { isHeld: false }),
    again: () => Object.assign(state, { isHeld: state.isEntered }),
    // Its row is gone, and it enters again.
    lost: () => Object.assign(state, { isHeld: false, isEntered: false }),
    enter() {
      memory.forgetAll();
      for (const [key, value] of database) announced.set(key, value);
      Object.assign(state, { isHeld: true, isEntered: true });
    },
  };
  for (const step of steps) {
    await verbs[step.verb]?.(step);
  }
  for (let round = 0; round < 100 && (loads.length > 0 || round < 2); round++) {
    loads.shift()?.end();
    await settle();
  }
  await Promise.all(questions);
  expect(wrong).toEqual([]);
  return answers;
}

test("what is remembered is given at once, and so is that there is nothing", async () => {
  const { database, loads, memory } = createRig();
  database.set("a", 1);

  const both = Promise.all([memory.get("a"), memory.get("b"), memory.get("a")]);
  await settle();
  for (const load of loads) load.end();

  expect(await both).toEqual([1, null, 1]);
  expect(loads.map(({ keys }) => keys)).toEqual([["a", "b"]]);
  expect([memory.get("a"), memory.get("b")]).toEqual([1, null]);
  expect(memory.counts).toEqual({ hits: 2, loads: 1, refusals: 0 });
});

test("made-up keys push out none that hold something", async () => {
  const { database, loads, memory } = createRig({ entriesMax: 8 });
  database.set("a", 1);
  const ask = async (key: string) => {
    const answer = memory.get(key);
    await settle();
    loads.pop()?.end();
    return answer;
  };
  await ask("a");

  for (let count = 0; count < 50; count++) {
    await ask(`made up ${count}`);
  }

  expect(memory.get("a")).toBe(1);
  expect(memory.size).toBe(3);
});

test("without trust nobody joins a load that is under way", async () => {
  const { database, loads, state, memory } = createRig();
  database.set("a", 1);
  state.isHeld = false;

  const before = memory.get("a");
  await settle();
  loads[0]?.read();
  database.set("a", 2);
  const after = memory.get("a");
  await settle();
  for (const load of loads) load.end();

  expect([await before, await after]).toEqual([1, 2]);
});

test("without trust and without the database every question is refused, soon at once", async () => {
  const { loads, state, memory } = createRig();
  state.isHeld = false;

  const asked = [memory.get("a"), memory.get("b")];
  await settle();
  loads[0]?.fail();

  for (const answer of [...asked, memory.get("c")]) {
    await expect(answer).rejects.toMatchObject({ name: "TrustLostError" });
  }
  await expect(memory.get("d")).rejects.toMatchObject({ name: "TrustLostError" });
  expect(loads).toHaveLength(1);
  expect(memory.counts.refusals).toBe(4);
});

test("with trust a load that fails fails those who asked, with what it threw", async () => {
  const { loads, memory } = createRig();

  const asked = memory.get("a");
  await settle();
  loads[0]?.fail();

  await expect(asked).rejects.toThrow("no answer");
  expect(memory.counts.refusals).toBe(0);
});

test("whoever watches a key hears of it alone, and of everything when all is forgotten", async () => {
  const { database, loads, errors, memory } = createRig();
  database.set("a", 1);
  const heard: string[] = [];
  memory.onForgotten((key) => heard.push(`any ${key}`));
  memory.watch("b", () => heard.push("b"));
  const unwatch = memory.watch("b", () => {
    throw new Error("a listener's own");
  });
  const asked = memory.get("a");
  await settle();
  loads[0]?.end();
  await asked;

  memory.forget(["x"]);
  memory.forget(["b"]);
  unwatch();
  memory.forgetAll();

  expect(heard).toEqual(["any x", "any b", "b", "any a", "any b", "b"]);
  expect(errors).toHaveLength(1);
});
