import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { createAppendQueue, type QueueLimits } from "./append-queue.ts";
import type { Entry, UsageEntry } from "./entry.ts";
import type { Receipt } from "./journal.ts";

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
  const commits: { count: number; finish(): void; fail(error: Error): void }[] = [];
  let position = 0n;
  const queue = createAppendQueue(
    {
      commit(given) {
        const { promise, resolve, reject } = Promise.withResolvers<Receipt>();
        position += 1n;
        const places = given.map((_, ordinal) => ({ position, ordinal }));
        const receipt = { position, places, applied: 0n };
        commits.push({ count: given.length, finish: () => resolve(receipt), fail: reject });
        return promise;
      },
    },
    { ...limits, ...more },
  );
  return { queue, commits };
}

async function reasonOf(promise: Promise<unknown>): Promise<string> {
  const error = ConnectError.from(await promise.catch((thrown) => thrown));
  expect(error.code).toBe(Code.Unavailable);
  return error.rawMessage;
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

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
