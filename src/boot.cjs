// Loaded before everything else (node --require): it must run on any Node.
const { join } = require("node:path");
const { enableCompileCache } = require("node:module");
const { setFlagsFromString } = require("node:v8");

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
