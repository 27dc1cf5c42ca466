// Loaded before everything else (`node --import ./src/telemetry.ts`), so that pg is patched when it
// is first imported.
import { loadEnv } from "./env-file.ts";

type Env = Record<string, string | undefined>;

const shutdownMsMax = 5_000;

loadEnv(process.cwd());
// The one state of a module: the SDK is a global of the process, and whoever imports this later
// means that one.
const sdk = await start(process.env);

/**
 * Send the spans that are left, for at most 5 s, and stop. Does nothing when telemetry is off, or
 * the second time.
 */
export async function shutdownTelemetry(): Promise<void> {
  await sdk?.stop();
}

/**
 * Start OpenTelemetry, if the environment names a receiver; nothing of it is loaded otherwise.
 * OTEL_* configure it, as they do everywhere. Spans of incoming requests are the edge's: the
 * instrumentation of `http` knows no HTTP/2.
 */
async function start(env: Env): Promise<{ stop(): Promise<void> } | undefined> {
  const endpoint = env.OTEL_EXPORTER_OTLP_ENDPOINT || env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT;
  if (!endpoint || env.OTEL_SDK_DISABLED?.trim().toLowerCase() === "true") {
    return undefined;
  }
  setDefaults(env);
  const [{ NodeSDK }, { PgInstrumentation }] = await Promise.all([
    import("@opentelemetry/sdk-node"),
    import("@opentelemetry/instrumentation-pg"),
  ]);
  const nodeSdk = new NodeSDK({
    // Without a parent every poll of a background loop would be a trace of its own.
    instrumentations: [new PgInstrumentation({ requireParentSpan: true })],
  });
  nodeSdk.start();
  const once = bounded(() => nodeSdk.shutdown());
  process.once("beforeExit", () => void once());
  return { stop: once };
}

/** What OpenTelemetry assumes of variables that are not set, where we know better. */
function setDefaults(env: Env): void {
  if (
    !env.OTEL_SERVICE_NAME &&
    !/(^|,)\s*service\.name=/.test(env.OTEL_RESOURCE_ATTRIBUTES ?? "")
  ) {
    env.OTEL_SERVICE_NAME = "callora";
  }
  // Metrics are Prometheus's to fetch, and logs go to standard output.
  env.OTEL_METRICS_EXPORTER ||= "none";
  env.OTEL_LOGS_EXPORTER ||= "none";
  // As long as a shutdown waits; with the usual 10 s an absent receiver would hold up the end of a
  // command.
  env.OTEL_EXPORTER_OTLP_TIMEOUT ||= String(shutdownMsMax);
  // Not `process`: it would send the command line and the user's name.
  env.OTEL_NODE_RESOURCE_DETECTORS ||= "env,host,os,serviceinstance";
}

/** The work once, however often it is asked for. Neither waits longer than the limit, nor fails. */
function bounded(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => {
    done ??= new Promise((resolve) => {
      const timer = setTimeout(resolve, shutdownMsMax);
      void work()
        .catch(() => {})
        .finally(() => {
          clearTimeout(timer);
          resolve();
        });
    });
    return done;
  };
}
