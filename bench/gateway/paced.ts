// Calls at an even pace, from a process of its own: `paced.ts JOB`, with the job as JSON. Prints the latency as JSON.
import { setTimeout as sleep } from "node:timers/promises";
import { connectAll, readAnswers } from "../http1.ts";
import type { CallTarget, Latency } from "./load.ts";

/** What to call, and how often. */
export interface PacedJob extends CallTarget {
  /** Calls a second. */
  rate: number;
  seconds: number;
  /** Calls under way at once, at most: others wait, and their time runs. */
  connections: number;
}

/** Calls of the first second do not count: a consumer that has rested takes a lease first. */
const warmUpMs = 1_000;

if (import.meta.main) {
  console.log(JSON.stringify(await run(JSON.parse(process.argv[2] ?? ""))));
  process.exit(0);
}

async function run({ url, secret, rate, seconds, connections }: PacedJob): Promise<Latency> {
  const { host, port, pathname } = new URL(url);
  const request = `GET ${pathname} HTTP/1.1\r\nhost: ${host}\r\nx-api-key: ${secret}\r\n\r\n`;
  const free = (await connectAll(Number(port), connections)).map((socket) => {
    const answers = readAnswers(socket);
    return () => {
      socket.write(request);
      return answers.next();
    };
  });
  const begun = performance.now();
  const latencies: number[] = [];
  const waiting: number[] = [];
  const running = new Set<Promise<void>>();

  async function call(ask: () => Promise<number>): Promise<void> {
    for (let since = waiting.shift(); since !== undefined; since = waiting.shift()) {
      const status = await ask();
      if (status !== 200) {
        throw new Error(`Cannot measure ${url}: the answer is ${status}`);
      }
      if (since >= begun + warmUpMs) {
        latencies.push(performance.now() - since);
      }
    }
    free.push(ask);
  }

  const count = Math.round((rate * (warmUpMs + seconds * 1_000)) / 1_000);
  for (let made = 0; made < count; ) {
    // A timer is good to a millisecond: what is due by then is sent together.
    const due = Math.min(count, Math.floor(((performance.now() - begun) * rate) / 1_000) + 1);
    for (; made < due; made++) {
      waiting.push(performance.now());
      const ask = free.pop();
      if (ask !== undefined) {
        const one = call(ask);
        running.add(one);
        void one.finally(() => running.delete(one));
      }
    }
    await sleep(1);
  }
  await Promise.all(running);
  const sorted = Float64Array.from(latencies).sort();
  const at = (part: number) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
  return { p50Ms: at(0.5), p99Ms: at(0.99) };
}
