import assert from "node:assert";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, onTestFinished, test, vi } from "vitest";
import { type Committed, createAppendQueue, type QueueLimits } from "./append-queue.ts";
import type { Entry, UsageEntry } from "./entry.ts";

const limits: QueueLimits = {
  entriesMax: 10,
  bytesMax: 10_000,
  waitMs: 5_000,
  commitEntriesMax: 4,
  commitBytesMax: 5_000,
};

function entries(count: number, data = ""): Entry[] {
  const entry: Pick<UsageEntry, "kind" | "data"> = { kind: "usage", data };
  return Array.from({ length: count }, () => entry as UsageEntry);
}

/** A queue whose commits are finished by hand. */
function openQueue(more: Partial<QueueLimits> = {}) {
  const commits: { count: number; strict: number; finish(): void; fail(error: Error): void }[] = [];
  let position = 0n;
  const queue = createAppendQueue(
    {
      commit({ entries: given, strict }) {
        const { promise, resolve, reject } = Promise.withResolvers<Committed>();
        position += 1n;
        const places = given.map((entry, ordinal) =>
          strict.has(entry) && isEnded(entry) ? null : { position, ordinal },
        );
        const finish = () => resolve({ places, applied: 0n });
        commits.push({ count: given.length, strict: strict.size, finish, fail: reject });
        return promise;
      },
      leaseEnded: () => new Error("the lease is over"),
    },
    { ...limits, ...more },
  );
  return { queue, commits };
}

/** An entry that names a lease. */
function leased(lease: string): UsageEntry {
  return { ...entries(1)[0], lease } as UsageEntry;
}

const isEnded = (entry: Entry) => "lease" in entry && entry.lease === "ended";

/** Hears of what was pushed, under a name. */
function listen(heard: string[], name: string) {
  return {
    onDurable: () => void heard.push(`${name} durable`),
    onRefused: (error: unknown) => void heard.push(`${name} ${(error as Error).message}`),
  };
}

async function reasonOf(promise: Promise<unknown>): Promise<string> {
  const error = ConnectError.from(await promise.catch((thrown) => thrown));
  expect(error.code).toBe(Code.Unavailable);
  return error.rawMessage;
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Have time pass only when told: a few milliseconds pass by themselves on a busy machine. */
function stopClock() {
  vi.useFakeTimers({ toFake: ["performance", "setTimeout", "clearTimeout"] });
  onTestFinished(() => void vi.useRealTimers());
}

test("what comes in one turn shares a commit", async () => {
  const { queue, commits } = openQueue();

  const all = [queue.append(entries(1)), queue.append(entries(2))];
  await turn();
  commits[0]?.finish();

  await Promise.all(all);
  expect(commits.map(({ count }) => count)).toEqual([3]);
});

test("what comes while a commit runs shares the next one", async () => {
  const { queue, commits } = openQueue();

  const first = queue.append(entries(1));
  await turn();
  const others = [queue.append(entries(1)), queue.append(entries(2))];
  commits[0]?.finish();
  await first;
  await turn();
  commits[1]?.finish();

  expect(commits.map(({ count }) => count)).toEqual([1, 3]);
  expect(await Promise.all(others)).toEqual([
    { position: 2n, places: [{ position: 2n, ordinal: 0 }], applied: 0n },
    {
      position: 2n,
      places: [
        { position: 2n, ordinal: 1 },
        { position: 2n, ordinal: 2 },
      ],
      applied: 0n,
    },
  ]);
});

test.for([
  { appends: [1, 4, 2, 1, 1], data: "", counts: [1, 4, 4] },
  { appends: [1, 8, 1], data: "", counts: [1, 8, 1] },
  { appends: [1, 1, 1], data: "x".repeat(2_200), counts: [2, 1] },
])("commits are bounded: %j", async ({ appends, data, counts }) => {
  const { queue, commits } = openQueue();

  const all = Promise.all(appends.map((count) => queue.append(entries(count, data))));
  for (let index = 0; index < counts.length; index++) {
    await turn();
    commits[index]?.finish();
  }

  await all;
  expect(commits.map(({ count }) => count)).toEqual(counts);
});

test("beyond the entries that may wait, more are refused at once, until there is room", async () => {
  const { queue, commits } = openQueue();
  const running = queue.append(entries(5));
  await turn();

  const waiting = queue.append(entries(10));
  expect(await reasonOf(queue.append(entries(1)))).toMatch(/too many wait/);
  commits[0]?.finish();
  await running;
  await turn();
  const more = queue.append(entries(10));

  commits[1]?.finish();
  await waiting;
  await turn();
  commits[2]?.finish();
  await more;
});

test("beyond the bytes that may wait, more are refused", async () => {
  const { queue, commits } = openQueue();
  const running = queue.append(entries(1));
  await turn();
  const large = queue.append(entries(1, "x".repeat(9_000)));

  expect(await reasonOf(queue.append(entries(1, "x".repeat(1_000))))).toMatch(/too many wait/);

  commits[0]?.finish();
  await running;
  await turn();
  commits[1]?.finish();
  await large;
});

test("what waits too long is refused, and what runs is not", async () => {
  const { queue, commits } = openQueue({ waitMs: 20 });
  const running = queue.append(entries(1));
  await turn();

  const waiting = [queue.append(entries(1)), queue.append(entries(9))];
  expect(await Promise.all(waiting.map(reasonOf))).toHaveLength(2);
  const next = queue.append(entries(10));
  commits[0]?.finish();
  await running;
  await turn();
  commits[1]?.finish();

  expect((await next).places).toHaveLength(10);
  expect(commits.map(({ count }) => count)).toEqual([1, 10]);
});

test("a failed commit fails those who are in it, and nobody else", async () => {
  const { queue, commits } = openQueue();
  const first = queue.append(entries(1));
  await turn();
  const second = [queue.append(entries(1)), queue.append(entries(1))];
  commits[0]?.finish();
  await first;
  await turn();

  const third = queue.append(entries(1));
  commits[1]?.fail(new Error("no database"));
  for (const one of second) {
    await expect(one).rejects.toThrow("no database");
  }
  await turn();
  commits[2]?.finish();

  expect((await third).position).toBe(3n);
});

test("what is pushed is told in its order and in one turn, also when a sink throws", async () => {
  const { queue, commits } = openQueue();
  const heard: string[] = [];
  const thrown: unknown[] = [];
  const onThrown = (error: unknown) => void thrown.push(error);
  const usual = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", onThrown);

  queue.push(leased("a"), listen(heard, "a"), true);
  const failing = { onRefused: () => {}, onDurable: () => assert.fail("a sink that fails") };
  queue.push(leased("b"), failing, true);
  const appended = queue.append(entries(1)).then(({ places }) => heard.push(`${places.length}`));
  queue.push(leased("c"), listen(heard, "c"), false);
  await turn();
  commits[0]?.finish();
  await turn();
  expect(heard).toEqual(["a durable", "c durable", "1"]);
  await appended;
  await turn();
  process.off("uncaughtException", onThrown);
  for (const listener of usual) {
    process.on("uncaughtException", listener);
  }

  expect(commits).toMatchObject([{ count: 4, strict: 2 }]);
  expect(thrown).toMatchObject([{ message: "a sink that fails" }]);
});

test("a strict entry whose lease is over is refused, and what is with it is not", async () => {
  const { queue, commits } = openQueue();
  const heard: string[] = [];

  queue.push(leased("ended"), listen(heard, "strict"), true);
  queue.push(leased("ended"), listen(heard, "lenient"), false);
  queue.push(leased("active"), listen(heard, "paid"), true);
  await turn();
  commits[0]?.finish();
  await turn();

  expect(heard).toEqual(["strict the lease is over", "lenient durable", "paid durable"]);
});

test("what is pushed beyond the bound is refused, but not before the push is over", async () => {
  const { queue } = openQueue({ entriesMax: 1 });
  const heard: string[] = [];

  queue.push(leased("a"), listen(heard, "first"), true);
  queue.push(leased("b"), listen(heard, "second"), true);
  expect(heard).toEqual([]);
  await turn();
  await turn();

  expect(heard).toHaveLength(1);
  expect(heard[0]).toMatch(/^second .*too many wait/);
});

test("tells how much is not durable, and since when", async () => {
  const { queue, commits } = openQueue();
  expect(queue.waiting).toEqual({ entries: 0, oldestMs: 0 });

  queue.push(leased("a"), listen([], "a"), true);
  await turn();
  const others = queue.append(entries(3));
  const begun = performance.now();
  while (performance.now() - begun < 2) {}
  expect(queue.waiting.entries).toBe(4);
  expect(queue.waiting.oldestMs).toBeGreaterThanOrEqual(2);
  commits[0]?.finish();
  await turn();
  expect(queue.waiting.entries).toBe(3);
  commits[1]?.finish();
  await others;

  expect(queue.waiting).toEqual({ entries: 0, oldestMs: 0 });
});

test("what may wait is committed a moment later, or with what may not", async () => {
  stopClock();
  const { queue, commits } = openQueue();
  const heard: string[] = [];

  queue.push(leased("paid"), listen(heard, "patient"), false, true);
  await turn();
  expect(commits).toHaveLength(0);
  queue.push(leased("paid"), listen(heard, "hurried"), false);
  await turn();
  expect(commits).toMatchObject([{ count: 2 }]);
  queue.push(leased("paid"), listen(heard, "late"), false, true);
  commits[0]?.finish();
  await turn();
  vi.advanceTimersByTime(5);
  await turn();
  commits[1]?.finish();
  await turn();

  expect(heard).toEqual(["patient durable", "hurried durable", "late durable"]);
});

test.for([
  { sharing: 16, pushes: false, waits: true },
  { sharing: 15, pushes: false, waits: false },
  { sharing: 16, pushes: true, waits: false },
])(
  "after a commit that $sharing share, the next one waits: $waits (a push: $pushes)",
  async ({ sharing, pushes, waits }) => {
    stopClock();
    const { queue, commits } = openQueue({ entriesMax: 100, commitEntriesMax: 100 });
    const first = Array.from({ length: sharing }, () => queue.append(entries(1)));
    await turn();
    commits[0]?.finish();
    await Promise.all(first);

    // One that may wait longer does not keep back the one that comes after it.
    queue.push(leased("a"), listen([], "patient"), false, true);
    const next = queue.append(entries(1));
    if (pushes) {
      queue.push(leased("b"), listen([], "strict"), true);
    }
    await turn();
    expect(commits.length).toBe(waits ? 1 : 2);

    vi.advanceTimersByTime(5);
    await turn();
    commits[1]?.finish();
    await next;
    expect(commits.map(({ count }) => count)).toEqual([sharing, pushes ? 3 : 2]);
  },
);
