import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import os from "node:os";
import { expect, test } from "vitest";
import { waitUntil } from "../../src/db/embedded-process.ts";
import { startCluster } from "./cluster.ts";

const timeout = 120_000;

test.for([
  { how: "Ctrl-C", end: "process.kill(process.pid, 'SIGINT')", outcome: [null, "SIGINT"] },
  { how: "process.exit", end: "process.exit(4)", outcome: [4, null] },
])("a run that ends by $how leaves no process and no file", { timeout }, async (row) => {
  const run = runChild(row.end);

  const outcome = await once(run, "exit");

  expect(outcome).toEqual(row.outcome);
  expect(await processes(run)).toEqual([]);
  expect(await directories(run)).toEqual([]);
});

test("the next run removes the files of one that was killed", { timeout }, async () => {
  const run = runChild("setInterval(() => {}, 1_000)");
  await once(run, "spawn");
  await waitUntil(async () => (await directories(run)).length > 0, 30_000);
  run.kill("SIGKILL");
  await once(run, "exit");
  expect(await processes(run)).toEqual([]);

  await (await startCluster("")).stop();

  expect(await directories(run)).toEqual([]);
});

function runChild(end: string): ChildProcess {
  const url = new URL("cluster.ts", import.meta.url).href;
  const source = `
    import { startCluster } from ${JSON.stringify(url)};
    await startCluster("");
    ${end};
  `;
  return spawn(process.execPath, ["--input-type=module-typescript", "-e", source], {
    stdio: ["ignore", "ignore", "inherit"],
  });
}

async function directories(run: ChildProcess): Promise<string[]> {
  const found = await Promise.all(["/dev/shm", os.tmpdir()].map((parent) => readdir(parent)));
  return found.flat().filter((name) => name.startsWith(`callora-test-${run.pid}-`));
}

/** The processes that still name the run's directory when there has been time to end. */
async function processes(run: ChildProcess): Promise<string[]> {
  let left: string[] = [];
  await waitUntil(async () => {
    const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
    const commands = await Promise.all(
      pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")),
    );
    left = commands.filter((command) => command.includes(`callora-test-${run.pid}-`));
    return left.length === 0;
  }, 30_000);
  return left;
}
