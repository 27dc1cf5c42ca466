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
// V8 puts what a piece of code makes among old objects at once when much of it was still in use at some collections, as
// while a burst of calls waits for a commit. From then on each call would leave some there, which keeps alive what it
// points to: 4 KB a call, and a full collection every second.
setFlagsFromString("--no-allocation-site-pretenuring");
// Pages that small buffers share outlived the calls until a full collection, and made those come twice as often. Without
// them a small buffer takes half a microsecond more.
Buffer.poolSize = 0;
