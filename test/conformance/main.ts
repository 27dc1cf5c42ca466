// Replay the public Connect conformance suite against the edge: `npm run conformance -- DIR`.
import { readFile } from "node:fs/promises";
import { entry } from "../../src/edge/service-entry.ts";
import { openPolicy } from "../../src/rpc/policy.ts";
import { ConformanceService } from "../gen/connectrpc/conformance/v1/service_pb.ts";
import { startEdge } from "../support/edge.ts";
import { identity } from "../support/identity.ts";
import { type Known, runCases } from "./run.ts";
import { conformanceService } from "./service.ts";
import { casesOf, readSuites } from "./suites.ts";

const [directory, ...names] = process.argv.slice(2);
if (directory === undefined) {
  process.stderr.write("Cannot run conformance: say which folder holds its YAML files\n");
  process.exit(2);
}
const known: Known[] = JSON.parse(await readFile(new URL("known.json", import.meta.url), "utf8"));
const suites = await readSuites(directory);
const cases = suites
  .flatMap(casesOf)
  .filter(({ name }) => names.length === 0 || names.some((part) => name.includes(part)));
const services = [entry(ConformanceService, conformanceService(), openPolicy)];
await using edge = await startEdge({ services });
const tls = { ...identity, ca: identity.cert };
await using secure = await startEdge({ services, tls: { ...identity, clientCa: identity.cert } });
const summaries = [
  await runCases(
    cases.filter(({ isCertified }) => !isCertified),
    { baseUrl: edge.url, known },
  ),
  await runCases(
    cases.filter(({ isCertified }) => isCertified),
    { baseUrl: secure.url, known, tls },
  ),
];
const passed = summaries.reduce((sum, one) => sum + one.passed, 0);
const failed = summaries.flatMap((one) => one.failed);
const skipped = summaries.flatMap((one) => [...one.skipped]);
for (const { name, problems } of failed.toSorted((a, b) => a.name.localeCompare(b.name))) {
  console.log(`FAIL ${name}`);
  for (const problem of problems) {
    console.log(`     ${problem}`);
  }
}
let skips = 0;
for (const [reason, count] of skipped) {
  console.log(`skip ${count}: ${reason}`);
  skips += count;
}
console.log(`${passed} passed, ${failed.length} failed, ${skips} skipped`);
process.exitCode = failed.length === 0 ? 0 : 1;
