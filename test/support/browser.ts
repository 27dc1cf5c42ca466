import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { WebSocket } from "ws";

const path = "/usr/bin/chromium";
const startTimeoutMs = 45_000;
// A page draws hundreds of operations, which takes its time on a busy machine.
const callTimeoutMs = 45_000;
const stopTimeoutMs = 3_000;

/** A page of a headless chromium, and what happened on it. */
export interface Page extends AsyncDisposable {
  /** Messages of the level "error" and uncaught exceptions. */
  readonly errors: readonly string[];
  /** The address of every request, of whatever is not in the page itself. */
  readonly requests: readonly string[];
  open(url: string): Promise<void>;
  /** The value of a JavaScript expression, which may be a promise. */
  evaluate(expression: string): Promise<unknown>;
}

/** Start chromium with one page. Throws if it is not installed, naming the Debian package. */
export async function openPage(): Promise<Page> {
  if (!existsSync(path)) {
    throw new Error(
      "Cannot look at a page: install the Debian package chromium; " +
        "CALLORA_TEST_WITHOUT_CHROMIUM=1 leaves these tests out",
    );
  }
  const home = mkdtempSync(join(tmpdir(), "callora-chromium-"));
  const args = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"];
  const child = spawn(
    path,
    [...args, "--remote-debugging-port=0", `--user-data-dir=${home}`, "about:blank"],
    { stdio: ["ignore", "ignore", "pipe"], detached: true },
  );
  const stop = async () => {
    await end(child);
    rmSync(home, { recursive: true, force: true, maxRetries: 20 });
  };
  try {
    const socket = new WebSocket(await debuggerOf(child), { perMessageDeflate: false });
    await once(socket, "open");
    return await preparePage(socket, stop);
  } catch (error) {
    await stop();
    throw error;
  }
}

async function debuggerOf({ stderr }: ChildProcess): Promise<string> {
  if (stderr === null) {
    throw new Error("Cannot find chromium's debugger: its output is not piped");
  }
  const lines = createInterface({ input: stderr });
  const timer = setTimeout(() => lines.close(), startTimeoutMs);
  try {
    for await (const line of lines) {
      const url = /^DevTools listening on (ws:\S+)/.exec(line)?.[1];
      if (url !== undefined) {
        return url;
      }
    }
  } finally {
    clearTimeout(timer);
    stderr.resume();
  }
  throw new Error("Cannot find chromium's debugger: it did not say where it listens");
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) {
    return;
  }
  if (child.exitCode === null && child.signalCode === null) {
    const exited = once(child, "exit");
    child.kill();
    const timer = setTimeout(() => killGroup(child.pid), stopTimeoutMs);
    await exited;
    clearTimeout(timer);
  }
  // Its children may outlive it, and write where it wrote.
  killGroup(child.pid);
}

function killGroup(leader: number | undefined): void {
  try {
    process.kill(-Number(leader), "SIGKILL");
  } catch {
    // All of them have ended.
  }
}

type Params = Record<string, unknown>;

async function preparePage(socket: WebSocket, stop: () => Promise<void>): Promise<Page> {
  const errors: string[] = [];
  const requests: string[] = [];
  const { call, onEvent } = speak(socket);
  onEvent((method, params) => {
    if (method === "Runtime.exceptionThrown" || isError(method, params)) {
      errors.push(JSON.stringify(params));
    }
    if (method === "Network.requestWillBeSent") {
      const { url } = params.request as { url: string };
      requests.push(...(/^(?:data|blob):/.test(url) ? [] : [url]));
    }
  });
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const session = String(sessionId);
  for (const domain of ["Runtime", "Log", "Network", "Page"]) {
    await call(`${domain}.enable`, {}, session);
  }
  return {
    errors,
    requests,
    async open(url) {
      const loaded = new Promise<void>((resolve) => {
        onEvent((method) => method === "Page.loadEventFired" && resolve());
      });
      await call("Page.navigate", { url }, session);
      await loaded;
    },
    async evaluate(expression) {
      const options = { expression, awaitPromise: true, returnByValue: true };
      const { result, exceptionDetails } = await call("Runtime.evaluate", options, session);
      if (exceptionDetails !== undefined) {
        throw new Error(`Cannot evaluate: ${JSON.stringify(exceptionDetails)}`);
      }
      return (result as { value?: unknown }).value;
    },
    async [Symbol.asyncDispose]() {
      socket.terminate();
      await stop();
    },
  };
}

function isError(method: string, params: Params): boolean {
  const { level } = (params.entry ?? {}) as { level?: string };
  return (
    (method === "Runtime.consoleAPICalled" && params.type === "error") ||
    (method === "Log.entryAdded" && level === "error")
  );
}

/** The Chrome DevTools Protocol: numbered calls, and events between their answers. */
function speak(socket: WebSocket) {
  const waiting = new Map<number, (answer: Params) => void>();
  const listeners: ((method: string, params: Params) => void)[] = [];
  let last = 0;
  socket.on("message", (data) => {
    const message = JSON.parse(String(data)) as Params & { id?: number; method?: string };
    if (message.id === undefined) {
      for (const listener of listeners) {
        listener(message.method ?? "", (message.params ?? {}) as Params);
      }
    } else {
      waiting.get(message.id)?.(message);
      waiting.delete(message.id);
    }
  });
  return {
    onEvent: (listener: (method: string, params: Params) => void) => void listeners.push(listener),
    call(method: string, params: Params, sessionId?: string): Promise<Params> {
      const id = ++last;
      socket.send(JSON.stringify({ id, method, params, ...(sessionId && { sessionId }) }));
      return new Promise((resolve, reject) => {
        const fail = () => reject(new Error(`Cannot call ${method}: chromium does not answer`));
        const timer = setTimeout(fail, callTimeoutMs);
        waiting.set(id, ({ result, error }) => {
          clearTimeout(timer);
          if (error === undefined) {
            resolve(result as Params);
          } else {
            reject(new Error(`Cannot call ${method}: ${JSON.stringify(error)}`));
          }
        });
      });
    },
  };
}
