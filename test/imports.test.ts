import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

/** The folders of src, and what each may import besides `foundation`. A new folder needs a row. */
const table: Readonly<Record<string, readonly string[]>> = {
  lib: [],
  db: [],
  rpc: [],
  edge: [],
  ledger: [],
  audit: [],
  limits: ["audit", "webhooks"],
  stellar: [],
  network: ["audit", "webhooks"],
  webhooks: ["audit"],
  accounts: ["audit", "webhooks", "stellar"],
  catalog: ["audit", "webhooks"],
  credentials: ["audit", "webhooks"],
  credits: ["ledger", "audit", "webhooks"],
  keys: ["credits", "credentials", "audit", "webhooks"],
  metering: ["ledger", "catalog", "credits", "audit", "webhooks"],
  analytics: ["metering", "catalog"],
  gateway: ["keys", "catalog", "credentials", "credits", "metering"],
  providers: ["credentials", "credits", "metering", "audit", "webhooks"],
  settlement: ["ledger", "credits", "audit", "webhooks", "stellar"],
};

/** What every folder may import, but for those that are beneath it themselves. */
const foundation: readonly string[] = ["lib", "db", "rpc", "events", "gen"];
const foundationOf: Readonly<Record<string, readonly string[]>> = {
  lib: [],
  db: ["lib"],
  rpc: ["lib", "gen"],
  edge: ["lib", "rpc", "gen"],
};

/** The top of the house: these may import everything. The other files beside them too. */
const top = ["cli"];

/** Alone in reading the environment: one makes the configuration, the others run before there is one. */
const readersOfEnvironment = ["config.ts", "env-file.ts", "telemetry.ts", "boot.cjs"];

interface Source {
  /** Relative to src, for example `keys/store.ts`. */
  name: string;
  text: string;
}

test("folders import only what lies beneath them", () => {
  expect(readSources().flatMap(wrongImports)).toEqual([]);
});

test("every folder is in the table", () => {
  expect(unlisted(folders())).toEqual([]);
});

test("only the configuration reads the environment", () => {
  const readers = readSources()
    .filter(readsEnvironment)
    .map(({ name }) => name);

  expect(readers.filter((name) => !readersOfEnvironment.includes(name) && !isEntry(name))).toEqual(
    [],
  );
});

test("the console imports nothing of the server but the generated contract", () => {
  const strays = readSources("web/src").flatMap(({ name, text }) =>
    importsOf(text)
      .filter((from) => from.startsWith("."))
      .map((from) => path.posix.join("web/src", path.posix.dirname(name), from))
      .filter((target) => !/^(?:web|gen)\//.test(target))
      .map((target) => `${name} imports ${target}`),
  );

  expect(strays).toEqual([]);
});

test("only app.ts imports a service", () => {
  const importers = readSources()
    .filter(({ text }) => importsOf(text).some((from) => from.endsWith("/service.ts")))
    .map(({ name }) => name);

  expect(importers).toEqual(["app.ts"]);
});

test.for([
  { name: "lib/x.ts", from: "../db/pool.ts" },
  { name: "db/x.ts", from: "../rpc/call.ts" },
  { name: "rpc/x.ts", from: "../edge/server.ts" },
  { name: "edge/x.ts", from: "../keys/store.ts" },
  { name: "edge/rest/x.ts", from: "../../db/pool.ts" },
  { name: "ledger/x.ts", from: "../credits/leases.ts" },
  { name: "keys/x.ts", from: "../gateway/proxy.ts" },
  { name: "keys/x.ts", from: "../app.ts" },
  { name: "keys/x.ts", from: "../config.ts" },
  { name: "lib/x.ts", from: "../../gen/callora/keys/v1/key_service_pb.ts" },
  { name: "stellar/devnet/x.ts", from: "../../settlement/loop.ts" },
])("the table refuses $from in $name", ({ name, from }) => {
  for (const text of [
    `import { x } from "${from}";`,
    `import type { X } from '${from}';`,
    `export { x } from "${from}";`,
    `import "${from}";`,
    `const x = await import("${from}");`,
  ]) {
    expect(wrongImports({ name, text }), text).toHaveLength(1);
  }
});

test("a folder without a row, and a reader of the environment, are found", () => {
  expect(unlisted(["keys", "cli", "surprise"])).toEqual(["surprise"]);
  expect(readsEnvironment({ name: "keys/x.ts", text: "const { HOME } = process.env;" })).toBe(true);
  expect(readsEnvironment({ name: "keys/x.ts", text: 'import { env } from "node:process";' })).toBe(
    true,
  );
});

function folders(): string[] {
  return readdirSync("src", { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name);
}

function unlisted(names: string[]): string[] {
  return names.filter((name) => !(name in table) && !top.includes(name));
}

/** Tests beside a module are not part of the house: they may set it up as they like. */
function readSources(root = "src"): Source[] {
  const names = existsSync(root) ? readdirSync(root, { recursive: true, encoding: "utf8" }) : [];
  const sources = names.filter((name) => /\.[cm]?[jt]sx?$/.test(name) && !isTest(name));
  return sources.map((name) => ({ name, text: readFileSync(path.join(root, name), "utf8") }));
}

function isTest(name: string): boolean {
  return /(?:\.test|test-support|testing)\.ts$/.test(name);
}

/** The command line stands where the server's own entry stands: outside. */
function isEntry(name: string): boolean {
  return name === "main.ts" || name.startsWith("cli/");
}

function wrongImports({ name, text }: Source): string[] {
  const folder = folderOf(name);
  const allowed = table[folder];
  if (allowed === undefined) {
    return [];
  }
  const may = [folder, ...allowed, ...(foundationOf[folder] ?? foundation)];
  return importsOf(text)
    .filter((from) => from.startsWith("."))
    .filter((from) => !may.includes(targetOf(name, from)))
    .map((from) => `${name} imports ${from}`);
}

/** The folder of src that an import leads to; of a file beside the folders its name; or `gen`. */
function targetOf(name: string, from: string): string {
  const target = path.posix.join("src", path.posix.dirname(name), from);
  const [root = "", ...rest] = target.split("/");
  return root === "src" ? folderOf(rest.join("/")) : root;
}

function folderOf(name: string): string {
  return (name.split("/")[0] ?? "").replace(/\.ts$/, "");
}

function importsOf(text: string): string[] {
  const found = text.matchAll(/(?:\bfrom\s*|\bimport\s*\(?\s*|\brequire\(\s*)["']([^"']+)["']/g);
  return [...found].map(([, from = ""]) => from);
}

function readsEnvironment({ text }: Source): boolean {
  return /\bprocess\s*(?:\.\s*env|\[["']env)\b|\benv\b[^;\n]*from "(?:node:)?process"/.test(text);
}
