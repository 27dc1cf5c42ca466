import { fork } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { join } from "node:path";

/** What a process is told. */
export interface ProjectorSettings {
  workerUrl: string;
  /** Names the process in the leases of shards. */
  holder: string;
}

/** Start a process that applies the journal. Its sessions bear a name. It is killed at the end of the scope. */
export async function startProjectorProcess(workerUrl: string, name: string) {
  const url = new URL(workerUrl);
  url.searchParams.set("application_name", name);
  const settings: ProjectorSettings = { workerUrl: url.href, holder: randomUUID() };
  const child = fork(
    join(import.meta.dirname, "projector-process.ts"),
    [JSON.stringify(settings)],
    {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      execArgv: [],
    },
  );
  const exited = once(child, "exit");
  await Promise.race([once(child, "message"), exited]);
  return {
    child,
    holder: settings.holder,
    /** Let it apply what there is and give its shards back. */
    async stop(): Promise<void> {
      child.disconnect();
      await exited;
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
