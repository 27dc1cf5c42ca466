import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { loadNodeArgs } from "../load-node.ts";
import type { PacedJob } from "./paced.ts";

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
  const { stdout: text } = await execute("wrk", [
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

/**
 * How long calls take at a rate. They come evenly: all connections at once, as load generators like it, would wait for
 * each other.
 */
export async function latency(
  target: CallTarget,
  { rate, seconds }: { rate: number; seconds: number },
): Promise<Latency> {
  const script = fileURLToPath(new URL("paced.ts", import.meta.url));
  const job: PacedJob = { ...target, rate, seconds, connections };
  const { stdout } = await execute(process.execPath, [
    ...loadNodeArgs,
    script,
    JSON.stringify(job),
  ]);
  return JSON.parse(stdout);
}

function numberIn(text: string, pattern: RegExp): number {
  const found = Number(pattern.exec(text)?.[1]);
  if (Number.isNaN(found)) {
    throw new Error(`Cannot read the output of the load: no ${pattern} in it\n${text}`);
  }
  return found;
}
