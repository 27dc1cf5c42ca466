import { fileURLToPath } from "node:url";
import { clone, create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { entry } from "../../src/edge/service-entry.ts";
import { openPolicy } from "../../src/rpc/policy.ts";
import { Code } from "../gen/connectrpc/conformance/v1/config_pb.ts";
import { ConformanceService, ErrorSchema } from "../gen/connectrpc/conformance/v1/service_pb.ts";
import { TestCaseSchema, TestResultSchema } from "../gen/connectrpc/conformance/v1/suite_pb.ts";
import { startEdge } from "../support/edge.ts";
import { identity } from "../support/identity.ts";
import { runCases } from "./run.ts";
import { conformanceService } from "./service.ts";
import { type Case, casesOf, readSuites } from "./suites.ts";

const own = fileURLToPath(new URL("own", import.meta.url));

function startConformance() {
  return startEdge({ services: [entry(ConformanceService, conformanceService(), openPolicy)] });
}

async function ownCases(): Promise<Case[]> {
  return (await readSuites(own)).flatMap(casesOf);
}

test("every kind of call works over every protocol, codec and compression", async () => {
  await using edge = await startConformance();
  const cases = await ownCases();

  const { passed, failed } = await runCases(cases, { baseUrl: edge.url, known: [] });

  expect(failed).toEqual([]);
  expect(passed).toBe(cases.length);
  expect(passed).toBeGreaterThan(200);
});

test("calls work over TLS too, of clients that show a certificate", async () => {
  const services = [entry(ConformanceService, conformanceService(), openPolicy)];
  await using edge = await startEdge({ services, tls: { ...identity, clientCa: identity.cert } });
  const cases = (await ownCases()).filter(
    ({ name, test }) => name.includes("/proto/identity/") && test.request?.rawRequest === undefined,
  );

  const tls = { ...identity, ca: identity.cert };
  const { passed, failed } = await runCases(cases, { baseUrl: edge.url, known: [], tls });

  expect(failed).toEqual([]);
  expect(passed).toBeGreaterThan(20);
});

test("the runner tells a wrong answer from a right one, whichever client asks", async () => {
  await using edge = await startConformance();
  const cases = (await ownCases()).map((one) => {
    const test = clone(TestCaseSchema, one.test);
    const error = create(ErrorSchema, { code: Code.FAILED_PRECONDITION });
    test.expectedResponse = create(TestResultSchema, { error });
    return { ...one, test };
  });

  const { passed, failed } = await runCases(cases, { baseUrl: edge.url, known: [] });

  expect(passed).toBe(0);
  expect(failed).toHaveLength(cases.length);
});

test("a known failure is no failure, until it passes", async () => {
  await using edge = await startConformance();
  const cases = (await ownCases()).filter(({ name }) => name.startsWith("Get/"));
  const reason = "because";
  const known = [
    { cases: "Get/h1", run: true, reason },
    { cases: "Get/h2", run: false, reason },
  ];

  const summary = await runCases(cases, { baseUrl: edge.url, known });

  expect(summary.failed.map(({ problems }) => problems)).toEqual(
    cases
      .filter(({ name }) => name.startsWith("Get/h1"))
      .map(() => ["passes, though known to fail"]),
  );
  expect(summary.skipped).toEqual(new Map([[reason, summary.failed.length]]));
});
