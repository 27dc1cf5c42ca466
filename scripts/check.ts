// Everything that can be said of the sources without running them. Run by `npm run check`.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const generated = mkdtempSync(join(tmpdir(), "callora-generated-"));

/** Each with what to do when it fails. */
const checks: [name: string, command: string[], remedy: string][] = [
  ["buf lint", ["buf", "lint"], "mend the proto"],
  ["buf format", ["buf", "format", "--exit-code", "--diff"], "npm run generate"],
  [
    "buf breaking",
    ["buf", "breaking", "proto", "--against", "proto/release.binpb"],
    "keep what the last release promised: add fields and methods, reserve removed numbers",
  ],
  ["generate", ["buf", "generate", "-o", generated], "mend the proto or the plugin"],
  [
    "generate (tests)",
    ["buf", "generate", "--template", "buf.gen.test.yaml", "-o", generated],
    "mend the test proto",
  ],
  ["gen is up to date", ["diff", "-r", "gen", join(generated, "gen")], "npm run generate"],
  [
    "test/gen is up to date",
    ["diff", "-r", "test/gen", join(generated, "test/gen")],
    "npm run generate",
  ],
  ["biome", ["biome", "ci", "--error-on-warnings", "--colors=off"], "npx biome check --write"],
  ["tsc", ["tsc"], "mend the types"],
  ["knip", ["knip"], "delete what is unused, or list what is missing"],
];

let failures = 0;
try {
  for (const [name, [command = "", ...args], remedy] of checks) {
    const begun = performance.now();
    const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    console.log(`${status === 0 ? "ok  " : "FAIL"} ${name} (${seconds} s)`);
    if (status !== 0) {
      failures += 1;
      console.log(`${stdout}${stderr}`.trimEnd().split("\n").slice(0, 60).join("\n"));
      console.log(`     to mend: ${remedy}`);
    }
  }
} finally {
  rmSync(generated, { recursive: true });
}
process.exitCode = failures === 0 ? 0 : 1;
