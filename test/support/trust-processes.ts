import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

/** Where a process finds its database. */
export interface TrustUrls {
  workerUrl: string;
  listenUrl: string;
}

/** What a process is asked. */
export interface Question {
  id: number;
  verb: "ask" | "revoke" | "verify";
  /** The secret, when it is to be verified. */
  key: string;
  /** Uses that it takes from the quota, when it is verified. */
  cost: number;
}

/** What a process says. */
export interface Answer {
  id: number;
  result: { accepts?: boolean; settledMs?: number; code?: string; error?: string };
}

/** A process that accepts keys from memory. */
export interface TrustProcess {
  child: ChildProcess;
  send(question: Omit<Question, "id">): Promise<Answer["result"]>;
  /** End it politely: nobody has to wait for it any more. */
  stop(): Promise<void>;
}

/** What a process says of a key. */
export type Word = "accepted" | "refused" | "unknown";

/** Ask a process about a key. Unknown: it says that it cannot know. */
export async function askProcess(process: TrustProcess, key: string): Promise<Word> {
  const { accepts, error } = await process.send({ verb: "ask", key, cost: 0 });
  return toWord(accepts === true, error);
}

/** Have a process verify a secret, at no cost. */
export async function verifyAt(process: TrustProcess, key: string): Promise<Word> {
  const { code, error } = await process.send({ verb: "verify", key, cost: 0 });
  return toWord(code === "VALID", error);
}

/** Where a process cannot know: its memory is not to be trusted, or the database says nothing. */
export const unknowns: readonly string[] = ["TrustLostError", "LateError"];

function toWord(isAccepted: boolean, error: string | undefined): Word {
  if (error !== undefined && !unknowns.includes(error)) {
    throw new Error(error);
  }
  return error !== undefined ? "unknown" : isAccepted ? "accepted" : "refused";
}

/** Revoke a key at a process. Returns how long it waited for the others, once no process may accept the key. */
export async function revokeAt(process: TrustProcess, key: string): Promise<number> {
  const { settledMs, error } = await process.send({ verb: "revoke", key, cost: 0 });
  if (settledMs === undefined) {
    throw new Error(error);
  }
  return settledMs;
}

/** Start a process. It ends with this one, and is killed at the end of the scope, stopped or not. */
export async function startTrustProcess(urls: TrustUrls) {
  const child = fork(join(import.meta.dirname, "trust-process.ts"), [JSON.stringify(urls)], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    execArgv: [],
  });
  const exited = once(child, "exit");
  const waiting = new Map<number, (result: Answer["result"]) => void>();
  let count = 0;
  child.on("message", ({ id, result }: Answer) => {
    waiting.get(id)?.(result);
    waiting.delete(id);
  });

  function expectAnswer(id: number): Promise<Answer["result"]> {
    const answered = new Promise<Answer["result"]>((resolve) => waiting.set(id, resolve));
    const ended = exited.then(([code]) => ({ error: `the process ended (${code})` }));
    return Promise.race([answered, ended]);
  }

  const { error } = await expectAnswer(0);
  if (error !== undefined) {
    throw new Error(error);
  }
  return {
    child,
    send(question: Omit<Question, "id">) {
      count += 1;
      const answer = expectAnswer(count);
      // That it could not be sent is told by the end of the process.
      child.send({ id: count, ...question } satisfies Question, () => {});
      return answer;
    },
    async stop() {
      child.disconnect();
      await exited;
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await exited;
    },
  } satisfies TrustProcess & AsyncDisposable;
}
