import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const execute = promisify(execFile);

/** Calls that are under way at once. */
const connections = 64;

/** Where calls go, and with which key. */
export interface CallTarget {
  readonly url: string;
  readonly secret: string;
}

/** Calls a second, as many as the target takes. Throws unless all are answered with a 2xx. */
export async function throughput(target: CallTarget, seconds: number): Promise<number> {
  const text = await run("wrk", [
    ...["-t1", `-c${connections}`, `-d${seconds}s`],
    ...["-H", `x-api-key: ${target.secret}`, target.url],
  ]);
  if (/Non-2xx|Socket errors/.test(text)) {
    throw new Error(`Cannot measure ${target.url}: not all calls succeeded\n${text}`);
  }
  return numberIn(text, /Requests\/sec:\s+([\d.]+)/);
}

/** How long calls took, in milliseconds. */
export interface Latency {
  p50Ms: number;
  p99Ms: number;
}

/** How long calls take at a rate, over one connection for each that is under way. */
export async function latency(
  target: CallTarget,
  { rate, seconds }: { rate: number; seconds: number },
): Promise<Latency> {
  const directory = await mkdtemp(join(tmpdir(), "callora-bench-"));
  try {
    const log = join(directory, "log");
    const pace = ["--rps", String(rate / connections), "-D", String(seconds)];
    check(await run("h2load", [...pace, `--log-file=${log}`, ...h2loadArgs(target)]));
    return percentiles(await readFile(log, "utf8"));
  } finally {
    await rm(directory, { recursive: true });
  }
}

function h2loadArgs({ url, secret }: CallTarget): string[] {
  return ["--h1", "-c", String(connections), "-m", "1", "-H", `x-api-key: ${secret}`, url];
}

async function run(tool: "wrk" | "h2load", args: readonly string[]): Promise<string> {
  const options = { maxBuffer: 16 * 1024 * 1024 };
  const { stdout } = await execute(tool, args, options);
  return stdout;
}

function check(text: string): void {
  const failed = numberIn(text, /(\d+) failed/);
  const others = /status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx/.exec(text)?.slice(1);
  if (failed > 0 || others === undefined || others.some((count) => count !== "0")) {
    throw new Error(`Cannot measure: not all calls succeeded\n${text}`);
  }
}

/** The third column of h2load's log is the microseconds until the end of the reply. */
function percentiles(log: string): Latency {
  const times = log
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => Number(line.split("\t")[2]) / 1000)
    .toSorted((a, b) => a - b);
  const at = (part: number) => times[Math.floor(times.length * part)];
  const [p50Ms, p99Ms] = [at(0.5), at(0.99)];
  if (p50Ms === undefined || p99Ms === undefined) {
    throw new Error("Cannot take a percentile of nothing");
  }
  return { p50Ms, p99Ms };
}

function numberIn(text: string, pattern: RegExp): number {
  const found = Number(pattern.exec(text)?.[1]);
  if (Number.isNaN(found)) {
    throw new Error(`Cannot read the output of the load: no ${pattern} in it\n${text}`);
  }
  return found;
}
