import { bodyBytesMax } from "../../src/edge/read-body.ts";
import { differences } from "./expect.ts";
import { callRaw } from "./raw-client.ts";
import { requestsOf } from "./requests.ts";
import { type ClientTls, createRpcClients } from "./rpc-client.ts";
import type { Case } from "./suites.ts";

/** Cases that are not expected to pass. */
export interface Known {
  /** What the names of the cases begin with. */
  readonly cases: string;
  /** False for cases that cannot be run at all. */
  readonly run: boolean;
  readonly reason: string;
}

/** What came of a run. */
export interface Summary {
  readonly passed: number;
  /** Cases that failed though nothing is known of them, or passed though it is. */
  readonly failed: readonly { name: string; problems: readonly string[] }[];
  /** How many cases each known reason explains. */
  readonly skipped: ReadonlyMap<string, number>;
}

const caseMsMax = 20_000;
const casesAtOnce = 8;

/** Replay cases against a server. */
export async function runCases(
  cases: readonly Case[],
  { baseUrl, known, tls }: { baseUrl: string; known: readonly Known[]; tls?: ClientTls },
): Promise<Summary> {
  const clients = createRpcClients(baseUrl, tls);
  const failed: { name: string; problems: string[] }[] = [];
  const skipped = new Map<string, number>();
  let passed = 0;

  async function runOne(one: Case): Promise<void> {
    const excuse = known.find((entry) => one.name.startsWith(entry.cases));
    const problems = excuse?.run === false ? ["not run"] : await problemsOf(one, baseUrl, clients);
    if (excuse !== undefined && problems.length > 0) {
      skipped.set(excuse.reason, (skipped.get(excuse.reason) ?? 0) + 1);
    } else if (excuse !== undefined) {
      failed.push({ name: one.name, problems: ["passes, though known to fail"] });
    } else if (problems.length > 0) {
      failed.push({ name: one.name, problems });
    } else {
      passed += 1;
    }
  }

  const waiting = cases.values();
  async function work(): Promise<void> {
    for (const one of waiting) {
      await runOne(one);
    }
  }
  try {
    await Promise.all(Array.from({ length: casesAtOnce }, work));
  } finally {
    clients.close();
  }
  return { passed, failed, skipped };
}

async function problemsOf(
  { setup, test }: Case,
  baseUrl: string,
  clients: ReturnType<typeof createRpcClients>,
): Promise<string[]> {
  const { request } = test;
  if (request === undefined) {
    return ["the case has no request"];
  }
  const messages = requestsOf(test, bodyBytesMax);
  const signal = AbortSignal.timeout(caseMsMax);
  const raw = request.rawRequest;
  try {
    const outcome = await (raw === undefined
      ? clients.call(setup, request, messages, signal)
      : callRaw(baseUrl, setup, { request, raw }, signal));
    return differences(test, messages, outcome);
  } catch (error) {
    return [String(error)];
  }
}
