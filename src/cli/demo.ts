import { randomBytes } from "node:crypto";
import {
  CheckConservationResponseSchema,
  type ConservationCheck,
} from "../../gen/callora/settlement/v1/settlement_service_pb.ts";
import { readConfig } from "../config.ts";
import { type Clients, createClients } from "./demo/clients.ts";
import { type Person, signInAdmin } from "./demo/market.ts";
import { createReport, type Output, type Report, reasonOf, StepError } from "./demo/report.ts";
import { findServer, readAdminPassword } from "./demo/server.ts";
import { tellStory } from "./demo/story.ts";
import { compareSums, type DemoSums, sumLines } from "./demo/sums.ts";
import { startUpstream } from "./demo/upstream.ts";

/** What a demo runs against, and where it prints. What is not given comes from the environment. */
export interface DemoOptions {
  /**
   * A server that must be there. Not given: the one of this machine, or one that is started and
   * stopped.
   */
  url?: string | undefined;
  /**
   * The admin's. Not given: CALLORA_ADMIN_USERNAME and CALLORA_ADMIN_PASSWORD, else what the first
   * start made.
   */
  username?: string | undefined;
  password?: string | undefined;
  out: Output;
  env?: NodeJS.ProcessEnv;
  now?: () => Date;
}

/**
 * Drive the main job of the platform through clients that are not ours, and compare the sums to the
 * last unit.
 *
 * True when every step did what it should and every sum agrees; never throws. What it makes on the
 * server stays there, under names of its own.
 */
export async function runDemo(options: DemoOptions): Promise<boolean> {
  const begun = performance.now();
  const report = createReport(options.out);
  const isRight = await runSteps(report, options).catch((error: unknown) => {
    if (!(error instanceof StepError)) {
      report.mark(false, reasonOf(error));
    }
    return false;
  });
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  report.line("");
  report.mark(
    isRight,
    isRight
      ? `The demo ran, and all sums agree to the last nano-USDC (${seconds} s)`
      : `The demo failed: see the line that is marked above (${seconds} s)`,
  );
  return isRight;
}

async function runSteps(
  report: Report,
  { url, username, password, env = process.env, now = () => new Date() }: DemoOptions,
): Promise<boolean> {
  const config = readConfig(env);
  await using server = await report.step(
    "A server answers",
    () => findServer(url ?? `http://127.0.0.1:${config.server.port}`, url === undefined),
    (found) => `${found.url}${found.ownDataDir === undefined ? "" : ", started for the demo"}`,
  );
  await using upstream = await startUpstream();
  const clients = createClients(server.url, (waitMs) =>
    report.line(`  The server takes no more of these calls for ${waitMs / 1000} s: waiting`),
  );
  try {
    const admin = await report.step(
      "The admin signs in (REST)",
      async () =>
        signInAdmin(clients, {
          username: username ?? (server.ownDataDir === undefined ? config.admin.username : "admin"),
          password: await choosePassword(password ?? config.admin.password, {
            dataDir: config.dataDir,
            ownDataDir: server.ownDataDir,
          }),
        }),
      (person) => `${person.username} ${person.id}`,
    );
    const run = randomBytes(5).toString("hex");
    const stage = { report, clients, upstream, admin, run, now };
    const sums = await tellStory(stage);
    const isSumRight = showSums(report, sums);
    return (await showConservation(report, { clients, admin })) && isSumRight;
  } finally {
    clients.close();
  }
}

async function choosePassword(
  given: string | undefined,
  { dataDir, ownDataDir }: { dataDir: string; ownDataDir: string | undefined },
): Promise<string> {
  if (ownDataDir !== undefined) {
    return readAdminPassword(ownDataDir);
  }
  return given ?? readAdminPassword(dataDir);
}

/** Print the sums of this run and compare them. */
function showSums(report: Report, sums: DemoSums): boolean {
  report.line("");
  report.line("The sums of this run, in nano-USDC");
  for (const line of sumLines(sums)) {
    report.line(`  ${line}`);
  }
  const equations = compareSums(sums);
  for (const equation of equations) {
    markEquation(report, equation);
  }
  return equations.every(({ ok }) => ok);
}

/** Print what the server says of all its money. */
async function showConservation(
  report: Report,
  { clients, admin }: { clients: Clients; admin: Person },
): Promise<boolean> {
  const { ok, checks } = await clients.rest({
    method: "GET",
    path: "/api/settlements/conservation",
    token: admin.token,
    response: CheckConservationResponseSchema,
  });
  report.line("");
  report.line("The sums of the whole server: ledger, journal and chain, in nano-USDC");
  for (const check of checks) {
    markEquation(report, check);
  }
  return ok && checks.length > 0 && checks.every((check) => check.ok);
}

function markEquation(
  report: Report,
  {
    name,
    leftNanos,
    rightNanos,
    ok,
  }: Pick<ConservationCheck, "name" | "leftNanos" | "rightNanos" | "ok">,
): void {
  report.mark(ok, `${name}: ${leftNanos} ${ok ? "=" : "≠"} ${rightNanos}`);
}
