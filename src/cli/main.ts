import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import packageJson from "../../package.json" with { type: "json" };
import { readConfig, readMigrateConfig } from "../config.ts";
import { loadEnv } from "../env-file.ts";
import { reasonOf } from "../reason.ts";
import { type Mode, type Role, roles } from "../rpc/principal.ts";
import { type Context, UsageError } from "./context.ts";

const exitCode = { failure: 1, usage: 2 } as const;

/** Run the `callora` command. Sets the exit code: 0 done, 1 failed, 2 called wrongly. */
export async function main(args: readonly string[]): Promise<void> {
  // A reader that has seen enough, as `head`, is no failure.
  process.stdout.on("error", (error) => {
    if (!("code" in error && error.code === "EPIPE")) {
      throw error;
    }
  });
  const state: State = {};
  try {
    loadEnv(process.cwd());
    await createProgram(state).parseAsync(args, { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) {
      // It has told the person already.
      process.exitCode = error.exitCode === 0 ? 0 : exitCode.usage;
      return;
    }
    process.stderr.write(`${reasonOf(error, state.config)}\n`);
    process.exitCode = error instanceof UsageError ? exitCode.usage : exitCode.failure;
  }
}

/** What is known of the environment once a command asked. Messages name variables by it. */
interface State {
  config?: Context["config"];
}

/** The verbs. Each is loaded when it is called: most need a small part of the server. */
function createProgram(state: State): Command {
  const program = new Command("callora")
    .description("Serve Callora and run it.")
    .version(packageJson.version)
    .exitOverride();
  const now = () => new Date();
  const context = (): Context => {
    state.config = readConfig(process.env);
    return { config: state.config, now, print };
  };

  program
    .command("serve")
    .description("serve everything, as npm start does, until SIGTERM or SIGINT")
    .action(async () => (await import("./serve.ts")).serve());
  program
    .command("routes")
    .description("list everything that is served; needs no database")
    .option("--json", "as one JSON array", false)
    .action(async (options: { json: boolean }) =>
      (await import("./routes.ts")).routes(options, print),
    );
  program
    .command("verify")
    .description("check that no money was made or lost; exits with 1 if some was")
    .action(async () => (await import("./verify.ts")).verify(context()));
  program
    .command("partitions")
    .description("make the partitions of events to come, and remove events that are not kept")
    .action(async () => (await import("./partitions.ts")).partitions(context()));
  addMigrate(program);
  addAdmin(program, context);
  addKeys(program, context);
  addServices(program, context);
  addSettle(program, context);
  addDemo(program);
  return program;
}

function addMigrate(program: Command): void {
  const migrate = program
    .command("migrate")
    .description(
      "change the schema of DATABASE_MIGRATE_URL, DATABASE_URL or the embedded PostgreSQL",
    );
  const context = () => ({ config: readMigrateConfig(process.env), print });
  migrate
    .command("up")
    .description("apply what is pending")
    .action(async () => (await import("./migrate.ts")).up(context()));
  migrate
    .command("down")
    .description("undo the last migration")
    .addOption(new Option("--steps <n>", "undo that many").argParser(parseCount).conflicts("to"))
    .option("--to <version>", "undo all above that version", parseCount)
    .option("--force <table...>", "drop these tables although they have rows")
    .action(async (options) => (await import("./migrate.ts")).down(context(), options));
  migrate
    .command("status")
    .description("say of each migration whether it is applied")
    .action(async () => (await import("./migrate.ts")).status(context()));
}

function addAdmin(program: Command, context: () => Context): void {
  const admin = program.command("admin").description("people who run the platform");
  admin
    .command("reset")
    .description("give somebody a new password and end their sessions")
    .argument("<name>", "their name or mail address")
    .option("--drop-second-factor", "also take away the second factor that they lost", false)
    .action(async (username: string, options: { dropSecondFactor: boolean }) =>
      (await import("./admin.ts")).resetAdmin(context(), { username, ...options }),
    );
  admin
    .command("create")
    .description("make a person; without --password-stdin a password is made")
    .requiredOption("--username <name>", "the name to sign in with")
    .addOption(new Option("--role <role>", "what they may do").choices(roles).default("admin"))
    .option("--email <address>", "where mail goes", "")
    .option("--password-stdin", "read the password from standard input", false)
    .action(
      async (options: { username: string; role: Role; email: string; passwordStdin: boolean }) =>
        (await import("./admin.ts")).createAdmin(context(), options),
    );
}

function addKeys(program: Command, context: () => Context): void {
  program
    .command("keys")
    .description("API keys")
    .command("create")
    .description("make a key and print its secret")
    .requiredOption("--account <id>", "whose key it is")
    .requiredOption("--api <id>", "the API that it calls: its id or slug")
    .addOption(new Option("--mode <mode>", "").choices(["live", "test"]).default("live"))
    .option("--name <text>", "what its owner calls it", "")
    .action(async (options: { account: string; api: string; mode: Mode; name: string }) =>
      (await import("./keys.ts")).createKey(context(), options),
    );
}

function addServices(program: Command, context: () => Context): void {
  const scope = new Option("--scope <scope>", "what it may do; once for each")
    .argParser((value: string, before: string[] = []) => [...before, value])
    .makeOptionMandatory();
  program
    .command("services")
    .description("internal services that call Callora")
    .command("create")
    .description("make a service's token and print it")
    .argument("<name>", "what the service is called")
    .addOption(scope)
    .action(async (name: string, options: { scope: string[] }) =>
      (await import("./services.ts")).createService(context(), { name, scopes: options.scope }),
    );
}

function addSettle(program: Command, context: () => Context): void {
  const settle = program.command("settle").description("payouts to developers");
  const minimum = () =>
    new Option("--minimum <nanos>", "leave out whoever is owed less, in nano-USDC")
      .argParser(parseNanos)
      .default(0n, "0");
  settle
    .command("preview")
    .description("list what a run would pay; changes nothing")
    .addOption(minimum())
    .action(async (options: { minimum: bigint }) =>
      (await import("./settle.ts")).preview(context(), options),
    );
  settle
    .command("run")
    .description("pay what is payable, and wait until it is done")
    .addOption(minimum())
    .option("--timeout <seconds>", "how long to wait", parseCount, 120)
    .action(async ({ minimum, timeout }: { minimum: bigint; timeout: number }) =>
      (await import("./settle.ts")).run(context(), { minimum, timeoutSeconds: timeout }),
    );
}

function addDemo(program: Command): void {
  program
    .command("demo")
    .description("drive the main job against a server, and check the sums")
    .option("--url <url>", "the server; otherwise the one of this machine, or one of its own")
    .option("--username <name>", "an admin's name")
    .option("--password <text>", "and password")
    .action(async (options: { url?: string; username?: string; password?: string }) => {
      const { runDemo } = await import("./demo.ts");
      if (!(await runDemo({ ...options, out: process.stdout }))) {
        process.exitCode = exitCode.failure;
      }
    });
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function parseCount(text: string): number {
  if (!/^\d{1,6}$/.test(text)) {
    throw new InvalidArgumentError("It must be a whole number.");
  }
  return Number(text);
}

function parseNanos(text: string): bigint {
  if (!/^\d{1,18}$/.test(text)) {
    throw new InvalidArgumentError("It must be a whole number.");
  }
  return BigInt(text);
}

await main(process.argv.slice(2));
