import { isatty } from "node:tty";
import packageJson from "../../package.json" with { type: "json" };
import { type Config, readConfig } from "../config.ts";
import { loadEnv } from "../env-file.ts";
import { createLogger } from "../log.ts";
import { reasonOf } from "../reason.ts";
import { type FirstAdmin, startServer } from "../server.ts";
import { shutdownTelemetry } from "../telemetry.ts";

/** Serve until SIGTERM or SIGINT. Exits with 1, and one line that says why, when the start fails. */
export async function serve(): Promise<void> {
  const stopping = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    process.on(name, () => stopping.abort());
  }
  let admin: FirstAdmin | undefined;
  let config: Config | undefined;
  try {
    loadEnv(process.cwd());
    config = readConfig(process.env);
    const log = createLogger({ level: config.logLevel });
    const server = await startServer({
      config,
      log,
      now: clockOf(config),
      version: packageJson.version,
      signal: stopping.signal,
      onFirstAdmin: (made) => {
        admin = made;
      },
    });
    greet(server.url, admin);
    await aborted(stopping.signal);
    await server.close();
  } catch (error) {
    if (!stopping.signal.aborted) {
      process.stderr.write(`${reasonOf(error, config)}\n`);
      process.exitCode = 1;
    }
  }
  await shutdownTelemetry();
}

/** Wall time, for tests moved by an offset. */
function clockOf({ testClockOffsetMs: offsetMs }: Config): () => Date {
  return () => new Date(Date.now() + offsetMs);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
    }
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function greet(url: string, admin: FirstAdmin | undefined): void {
  const readyMs = Math.round(performance.now());
  const memoryMb = Math.round(process.memoryUsage().rss / 1_000_000);
  const lines = [
    `Callora ${packageJson.version} at ${url} (ready in ${readyMs} ms, ${memoryMb} MB)`,
    ...(admin === undefined ? [] : welcome(admin)),
    `  Docs: ${url}/docs   Health: ${url}/health/ready   Try: npm run demo`,
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}

/** The password goes to a terminal, where a person reads it, and never into a log. */
function welcome({ username, password, passwordFile }: FirstAdmin): string[] {
  const where = passwordFile === undefined ? "" : `  Its password is in ${passwordFile}`;
  const shown = isatty(1) && passwordFile !== undefined ? `: ${password}` : "";
  return [`  First start: made the admin "${username}".${where}${shown}`];
}
