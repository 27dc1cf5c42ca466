import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bearer, grpcFrame, paths, question } from "./calls.ts";
import { runLoad } from "./processes.ts";

/** A call that can be repeated. */
export type CallKind = "post" | "get" | "rpc" | "grpc";

/** Makes load. The files that the tools read lie in a directory of the bench. */
export interface Load {
  /** Requests a second when the next one is sent as soon as there is a reply. */
  throughput(url: string, kind: CallKind, seconds: number): Promise<number>;
  /** The 99th percentile of the latency, in milliseconds, at an offered rate. */
  p99Ms(url: string, kind: CallKind, options: { rate: number; seconds: number }): Promise<number>;
  /** Send this many requests. */
  send(url: string, kind: CallKind, count: number): Promise<void>;
}

const http1Connections = 32;
const http2Connections = 4;
const http2Streams = 16;

/** Write what the tools read. */
export async function prepareLoad(directory: string): Promise<Load> {
  const body = join(directory, "question.json");
  const frame = join(directory, "question.grpc");
  const script = join(directory, "post.lua");
  const log = join(directory, "h2load.log");
  await writeFile(body, JSON.stringify(question));
  await writeFile(frame, grpcFrame());
  await writeFile(
    script,
    `wrk.method = "POST"\nwrk.body = [[${JSON.stringify(question)}]]\nwrk.headers["content-type"] = "application/json"\n`,
  );

  function h2loadArgs(url: string, kind: CallKind): string[] {
    const headers = headersOf(kind).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);
    const data = kind === "get" ? [] : ["-d", kind === "grpc" ? frame : body];
    const shape =
      kind === "grpc"
        ? ["-c", String(http2Connections), "-m", String(http2Streams)]
        : ["--h1", "-c", String(http1Connections), "-m", "1"];
    return [...shape, ...data, ...headers, url + pathOf(kind)];
  }

  return {
    async throughput(url, kind, seconds) {
      if (kind === "grpc") {
        const text = await runLoad("h2load", ["-D", String(seconds), ...h2loadArgs(url, kind)]);
        checkH2load(text);
        return numberIn(text, /([\d.]+) req\/s/);
      }
      const headers = headersOf(kind).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);
      const post = kind === "get" ? [] : ["-s", script];
      const shape = ["-t1", `-c${http1Connections}`, `-d${seconds}s`];
      const text = await runLoad("wrk", [...shape, ...post, ...headers, url + pathOf(kind)]);
      if (/Non-2xx|Socket errors/.test(text)) {
        throw new Error(`Cannot measure ${url}: not all requests succeeded\n${text}`);
      }
      return numberIn(text, /Requests\/sec:\s+([\d.]+)/);
    },
    async p99Ms(url, kind, { rate, seconds }) {
      const clients = kind === "grpc" ? http2Connections : http1Connections;
      const pace = ["--rps", String(rate / clients), "-D", String(seconds)];
      await writeFile(log, "");
      const text = await runLoad("h2load", [
        ...pace,
        `--log-file=${log}`,
        ...h2loadArgs(url, kind),
      ]);
      checkH2load(text);
      return percentile99(await readFile(log, "utf8"));
    },
    async send(url, kind, count) {
      checkH2load(await runLoad("h2load", ["-n", String(count), ...h2loadArgs(url, kind)]));
    },
  };
}

function pathOf(kind: CallKind): string {
  return kind === "grpc" ? paths.rpc : paths[kind];
}

function headersOf(kind: CallKind): [name: string, value: string][] {
  const authorization: [string, string] = ["authorization", `Bearer ${bearer}`];
  switch (kind) {
    case "get":
      return [authorization];
    case "grpc":
      return [authorization, ["content-type", "application/grpc"], ["te", "trailers"]];
    default:
      return [authorization, ["content-type", "application/json"]];
  }
}

function checkH2load(text: string): void {
  const failed = numberIn(text, /(\d+) failed/);
  const others = /status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx/.exec(text)?.slice(1);
  if (failed > 0 || others === undefined || others.some((count) => count !== "0")) {
    throw new Error(`Cannot measure: not all requests succeeded\n${text}`);
  }
}

/** The third column of h2load's log is the microseconds until the end of the reply. */
function percentile99(log: string): number {
  const times = log
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => Number(line.split("\t")[2]))
    .toSorted((a, b) => a - b);
  const time = times[Math.floor(times.length * 0.99)];
  if (time === undefined) {
    throw new Error("Cannot take a percentile of nothing");
  }
  return time / 1000;
}

function numberIn(text: string, pattern: RegExp): number {
  const found = Number(pattern.exec(text)?.[1]);
  if (Number.isNaN(found)) {
    throw new Error(`Cannot read the output of the load: no ${pattern} in it\n${text}`);
  }
  return found;
}
