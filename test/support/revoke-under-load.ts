import { setTimeout as sleep } from "node:timers/promises";
import { until } from "./app.ts";
import { openBlackHole } from "./black-hole.ts";
import { startTrustProcess, type TrustProcess, type Word } from "./trust-processes.ts";

/** What happens to a process while keys are revoked. */
export interface Fault {
  /** Which of its connections go by the way that can swallow them. */
  ways: readonly ("worker" | "listen")[];
  /** Whether it is stopped with SIGSTOP, and goes on later. */
  isStopped: boolean;
}

export const healthy: Fault = { ways: [], isStopped: false };
export const stopped: Fault = { ways: [], isStopped: true };
/** Its LISTEN connection is black-holed. */
export const deaf: Fault = { ways: ["listen"], isStopped: false };
/** All its connections are black-holed. */
export const cutOff: Fault = { ways: ["listen", "worker"], isStopped: false };

/** Whom to ask and whom to revoke. */
export interface Revocation {
  /** The database, as the worker. */
  url: string;
  /** One for each process. */
  faults: readonly Fault[];
  /** Revoked one after the other. */
  keys: readonly string[];
  /** A key that is never revoked. */
  lasting: string;
  ask: (process: TrustProcess, key: string) => Promise<Word>;
  /** Revoke a key, at the first process if at one of them. Returns how long that took, in milliseconds. */
  revoke: (first: TrustProcess, key: string) => Promise<number>;
}

/** What came of it. */
export interface Revoked {
  /** Each yes to a question that was asked after Revoke had returned. */
  lies: string[];
  /** How many questions each process answered. */
  answered: number[];
  /** How long each Revoke took. */
  revokeMs: number[];
}

/** Revoke keys, each while the processes have their faults, and ask all processes about all keys all the time. */
export async function revokeUnderLoad(revocation: Revocation): Promise<Revoked> {
  const { url, faults, keys, lasting, ask, revoke } = revocation;
  await using hole = await openBlackHole(url);
  await using started = new AsyncDisposableStack();
  const processes: TrustProcess[] = [];
  for (const { ways } of faults) {
    const way = (name: "worker" | "listen") => (ways.includes(name) ? hole.through(url) : url);
    const urls = { workerUrl: way("worker"), listenUrl: way("listen") };
    processes.push(started.use(await startTrustProcess(urls)));
  }
  const [first, ...others] = processes;
  if (first === undefined) {
    throw new Error("Cannot revoke under load: there is no process");
  }
  const isAcceptedByAll = async (key: string) =>
    (await Promise.all(processes.map((process) => ask(process, key)))).every(
      (word) => word === "accepted",
    );
  const signal = (name: NodeJS.Signals) => {
    for (const [index, { child }] of processes.entries()) {
      if (faults[index]?.isStopped) child.kill(name);
    }
  };
  await using load = startLoad({ processes, ask }, [...keys, lasting]);

  const revokeMs: number[] = [];
  for (const [round, key] of keys.entries()) {
    await until(() => isAcceptedByAll(key));
    // Anywhere between two heartbeats.
    await sleep(Math.random() * 300);
    const revoking = round % 2 === 0 ? undefined : revoke(first, key);
    // In every other round the faults come while the announcement is on its way.
    await sleep(round % 2 === 0 ? 0 : Math.random() * 5);
    hole.swallow();
    signal("SIGSTOP");
    revokeMs.push(await (revoking ?? revoke(first, key)));
    load.revoked(key);
    // Those that wait for a process that is stopped are the first that it finds when it goes on.
    const questions = others.flatMap((process) =>
      Array.from({ length: 20 }, () => load.ask(process, key)),
    );
    await sleep(100);
    signal("SIGCONT");
    await sleep(100);
    hole.release();
    await Promise.all(questions);
    await until(() => isAcceptedByAll(lasting));
    await sleep(150);
  }
  return { ...(await load.stop()), revokeMs };
}

const askersPerProcess = 4;

/** Ask all processes about all keys, again and again, and note every yes to a question that came too late. */
function startLoad(
  { processes, ask }: { processes: readonly TrustProcess[]; ask: Revocation["ask"] },
  keys: readonly string[],
) {
  const revokedAt = new Map<string, number>();
  const answered = processes.map(() => 0);
  const lies: string[] = [];
  let isStopped = false;

  async function askAndJudge(process: TrustProcess, key: string) {
    const askedAt = performance.now();
    const word = await ask(process, key).catch((error) => {
      // A test that fails kills the processes that are still being asked.
      if (!isStopped) throw error;
    });
    const index = processes.indexOf(process);
    answered[index] = (answered[index] ?? 0) + 1;
    const lateMs = askedAt - (revokedAt.get(key) ?? Number.POSITIVE_INFINITY);
    if (word === "accepted" && lateMs > 0) {
      lies.push(`process ${index}, key ${keys.indexOf(key)}, ${lateMs} ms after Revoke`);
    }
  }

  async function askOn(process: TrustProcess, offset: number) {
    for (let count = offset; !isStopped; count++) {
      await askAndJudge(process, keys[count % keys.length] ?? "");
      // What is answered from memory comes at once: leave the others a turn.
      await sleep(1);
    }
  }

  const askers = processes.flatMap((process) =>
    Array.from({ length: askersPerProcess }, (_, index) => askOn(process, index)),
  );
  async function stop() {
    isStopped = true;
    await Promise.all(askers);
    return { lies, answered };
  }
  return {
    ask: askAndJudge,
    revoked: (key: string) => void revokedAt.set(key, performance.now()),
    stop,
    async [Symbol.asyncDispose]() {
      isStopped = true;
    },
  };
}
