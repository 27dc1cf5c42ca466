import { spawn } from "node:child_process";
import { once } from "node:events";

/** How a command ended and what it wrote. */
export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Run a command to its end. Whatever it leaves behind is killed; all of it after `timeoutMs`. */
export async function runCommand(
  [file = "", ...args]: readonly string[],
  { input = "", timeoutMs, cwd = "." }: { input?: string; timeoutMs: number; cwd?: string },
): Promise<Ended> {
  // A group of its own, so that what it leaves in the background can be ended too.
  const child = spawn(file, args, { cwd, detached: true });
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      said[name] += text;
    });
  }
  const closed = once(child, "close");
  const killGroup = () => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    } catch {}
  };
  const timer = setTimeout(killGroup, timeoutMs);
  child.stdin.on("error", () => {}).end(input);
  try {
    const [code] = (await once(child, "exit")) as [number | null];
    killGroup();
    await closed;
    return { code, ...said };
  } finally {
    clearTimeout(timer);
  }
}
