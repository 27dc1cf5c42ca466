// Loaded before everything else (node --require): it must run on any Node.
const { readdirSync, readFileSync } = require("node:fs");
const { setPriority } = require("node:os");
const { join } = require("node:path");
const { enableCompileCache } = require("node:module");
const { setFlagsFromString } = require("node:v8");
const { isMainThread } = require("node:worker_threads");

if (Number(process.versions.node.split(".")[0]) < 24) {
  process.stderr.write(
    `Cannot start on Node ${process.versions.node}: Callora needs 24 or newer (npm ci installs one on Linux)\n`,
  );
  process.exit(78);
}
// Compiled modules are kept beside the packages: the next start takes half the time.
enableCompileCache(join(__dirname, "..", "node_modules", ".cache", "callora"));

// Where calls have all cores busy, the threads that help to collect garbage wait for a core, and the calls for them: the
// young generation, of a few megabytes, is collected without.
setFlagsFromString("--no-parallel-scavenge");

// Nor shall those that help with the old one take a call's core. On Linux a thread has a priority of its own; where that
// cannot be had, all have the same.
if (process.platform === "linux" && isMainThread) {
  try {
    for (const thread of readdirSync("/proc/self/task")) {
      if (readFileSync(`/proc/self/task/${thread}/comm`, "utf8").startsWith("V8Worker")) {
        setPriority(Number(thread), 5);
      }
    }
  } catch {}
}
