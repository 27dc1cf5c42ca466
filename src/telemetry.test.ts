import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { expect, inject, onTestFinished, test } from "vitest";
import { createDatabase } from "../test/support/cluster.ts";
import { startReceiver } from "../test/support/otlp.ts";

// Programs that load OpenTelemetry take seconds to start where others compute too.
const timeout = 60_000;
const telemetry = new URL("./telemetry.ts", import.meta.url).href;

/** Run a program under telemetry, as `npm start` does, with no environment but the given one. */
async function run(
  program: string,
  { env = {}, before = [] }: { env?: Record<string, string>; before?: string[] } = {},
) {
  const imports = [...before, telemetry].flatMap((url) => ["--import", url]);
  const child = spawn(process.execPath, [...imports, "--input-type=module", "--eval", program], {
    cwd: import.meta.dirname,
    env,
    stdio: ["ignore", "pipe", "pipe"],
    timeout,
  });
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return { stdout, stderr, exitCode: child.exitCode };
}

const oneSpan = `
  import { trace } from "@opentelemetry/api";
  trace.getTracer("test").startSpan("work").end();
`;

test("a query is a span below the active one, in the caller's trace, without its values", {
  timeout,
}, async () => {
  const database = await createDatabase(inject("cluster"));
  onTestFinished(() => database.drop());
  const receiver = await startReceiver();
  const callerTrace = "4bf92f3577b34da6a3ce929d0e0e4736";

  const { stdout, stderr, exitCode } = await run(
    `
    import { context, propagation, ROOT_CONTEXT, SpanKind, trace } from "@opentelemetry/api";
    import pg from "pg";
    import { sql } from "slonik";
    import { nothing, openPool } from "./db/pool.ts";
    const client = new pg.Client(process.env.TEST_URL);
    await client.connect();
    const pool = await openPool({ url: process.env.TEST_URL, role: "callora_app", connectionsMax: 1 });
    const traceparent = "00-${callerTrace}-00f067aa0ba902b7-01";
    const caller = propagation.extract(ROOT_CONTEXT, { traceparent });
    const tracer = trace.getTracer("test");
    await tracer.startActiveSpan("serve", { kind: SpanKind.SERVER }, caller, async (span) => {
      await client.query("select $1::text as plain", ["canary"]);
      await pool.transaction((tx) => tx.any(sql.type(nothing)\`select \${"canary"}::text as pooled\`));
      const carrier = {};
      propagation.inject(context.active(), carrier);
      console.log(carrier.traceparent);
      span.end();
    });
    await client.query("select 'without a parent'");
    await pool.end();
    await client.end();
    `,
    {
      env: {
        TEST_URL: database.urls.app,
        OTEL_EXPORTER_OTLP_ENDPOINT: receiver.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      },
    },
  );

  expect({ stderr, exitCode }).toEqual({ stderr: "", exitCode: 0 });
  const spans = receiver.spans();
  const server = spans.find(({ name }) => name === "serve");
  assert(server);
  expect(server).toMatchObject({ traceId: callerTrace, parentSpanId: "00f067aa0ba902b7" });
  expect(stdout.trim()).toBe(`00-${callerTrace}-${server.spanId}-01`);
  for (const word of ["plain", "pooled"]) {
    const query = spans.find(({ attributes }) =>
      attributes.some(
        ({ key, value }) => key === "db.query.text" && value.stringValue?.includes(word),
      ),
    );
    expect(query).toMatchObject({ traceId: callerTrace, parentSpanId: server.spanId });
  }
  expect(spans.filter(({ traceId }) => traceId !== callerTrace)).toEqual([]);
  expect(receiver.bodies.join("")).not.toMatch(/canary|without a parent/);
});

test.for([
  ["callora", {}],
  ["mine", { OTEL_SERVICE_NAME: "mine" }],
  ["theirs", { OTEL_RESOURCE_ATTRIBUTES: "a=b,service.name=theirs" }],
] as const)("the service is called %s with %j", { timeout }, async ([name, env]) => {
  const receiver = await startReceiver();

  await run(oneSpan, {
    env: {
      ...env,
      OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${receiver.endpoint}/v1/traces`,
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
    },
  });

  const resource = receiver.resource();
  expect(resource.find(({ key }) => key === "service.name")?.value.stringValue).toBe(name);
  expect(resource.filter(({ key }) => key.startsWith("process."))).toEqual([]);
  expect(receiver.spans().map((span) => span.name)).toEqual(["work"]);
});

test.for([
  [{}],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: "" }],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:9", OTEL_SDK_DISABLED: "true" }],
] as const)("nothing is loaded and nothing is sent with %j", { timeout }, async ([env]) => {
  const listLoaded = `data:text/javascript,${encodeURIComponent(`
    import { registerHooks } from "node:module";
    registerHooks({ load(url, context, next) { console.log(url); return next(url, context); } });
  `)}`;

  const { stdout, exitCode } = await run("", { env, before: [listLoaded] });

  expect(exitCode).toBe(0);
  expect(stdout).toContain("telemetry.ts");
  expect(stdout).not.toContain("node_modules");
});

test("shutdownTelemetry sends what is left before the process ends", { timeout }, async () => {
  const receiver = await startReceiver();

  await run(
    `${oneSpan}
    const { shutdownTelemetry } = await import("./telemetry.ts");
    await Promise.all([shutdownTelemetry(), shutdownTelemetry()]);
    process.exit(0);`,
    {
      env: {
        OTEL_EXPORTER_OTLP_ENDPOINT: receiver.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      },
    },
  );

  expect(receiver.spans().map((span) => span.name)).toEqual(["work"]);
});

test("a receiver that never answers holds up the end for 5 s at most", { timeout }, async () => {
  const receiver = await startReceiver({ isDeaf: true });

  const { stdout, exitCode } = await run(
    `${oneSpan}
    const { shutdownTelemetry } = await import("./telemetry.ts");
    // Timers end in their order, however late.
    const late = new Promise((resolve) => setTimeout(resolve, 6_500, "late"));
    const startedMs = performance.now();
    const ended = shutdownTelemetry().then(() => performance.now() - startedMs);
    console.log(await Promise.race([ended, late]));
    process.exit(0);`,
    {
      env: {
        OTEL_EXPORTER_OTLP_ENDPOINT: receiver.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      },
    },
  );

  expect(exitCode).toBe(0);
  expect(receiver.bodies).toHaveLength(1);
  expect(Number(stdout)).toBeGreaterThan(1_000);
});
