import { once } from "node:events";
import { existsSync, globSync, readFileSync } from "node:fs";
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { test as base, expect } from "vitest";
import packageJson from "../package.json" with { type: "json" };
import { variableNames } from "../src/config.ts";
import { must } from "./support/app.ts";
import { runCommand } from "./support/command.ts";
import { type Block, blocksOf, isShown, pathsOf, rowsOf } from "./support/markdown.ts";
import { makeDataDir, start, startCommand } from "./support/process.ts";

const readme = readFileSync("README.md", "utf8");
const blocks = blocksOf(readme);
const pages = [
  "README.md",
  ...globSync(["[A-Z]*.md", "docs/*.md"]).filter((p) => p !== "README.md"),
];
const scripts: Readonly<Record<string, string>> = packageJson.scripts;

/** The shell blocks that are not run, and why. */
const notRun: Readonly<Record<string, string>> = {
  "npm ci && npm start":
    "`npm ci` would replace the packages under the running tests; the command line of `npm start` starts the server here",
  "npm ci && npm test": "the tests would run themselves",
  "docker compose -f deploy/docker-compose.yml up --build": "it needs a Docker engine",
};

/** A server as `npm start` starts it. */
interface Server {
  url: string;
  directory: string;
  stdout: string;
}

const test = base.extend<{ $file: { server: Server } }>({
  server: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using dataDir = await makeDataDir();
      const run = start(dataDir.path);
      const url = await run.url();
      await use({ url, directory: dataDir.path, stdout: run.stdout });
      run.kill("SIGTERM");
      await run.exited;
    },
    { scope: "file" },
  ],
});

test("README's commands do what it shows, and its snippet runs", { timeout: 240_000 }, async ({
  server,
}) => {
  const here = (text: string) =>
    text
      .replaceAll("http://localhost:3000", server.url)
      .replaceAll(".callora/", `${server.directory}/`);
  const shell = blocks.filter(
    ({ language, text }) => language === "sh" && !(text.trim() in notRun),
  );
  const upstreamPort = String(await freePort());

  const ended = await runCommand(["bash", "-s"], {
    input: scriptOf(shell.map(({ text }) => here(text).replaceAll("4000", upstreamPort))),
    timeoutMs: 150_000,
  });

  expect(ended, "README's commands").toMatchObject({ code: 0 });
  const outputs = ended.stdout.split(endOfBlock);
  for (const [index, block] of shell.entries()) {
    expectOutput(block, (outputs[index] ?? "").replaceAll(upstreamPort, "4000"));
  }
  const [snippet, ...more] = blocks.filter(({ language }) => language === "ts");
  expect(more).toEqual([]);
  const ran = await withSnippet(here(snippet?.text ?? ""), (cwd) =>
    runCommand([process.execPath, "snippet.ts"], { cwd, timeoutMs: 60_000 }),
  );
  expect(ran).toEqual({ code: 0, stdout: "greetings: 1000000 nano-USDC a call\n", stderr: "" });
});

test("the start prints what README shows", ({ server }) => {
  const [start] = blocks;

  expect(start?.text).toBe("npm ci && npm start\n");
  const printed = server.stdout
    .replaceAll(server.url, "http://localhost:3000")
    .replaceAll(server.directory, ".callora");
  expect(isShown(printed, start?.output?.text), printed).toBe(true);
});

test("the links of the start page are served", async ({ server }) => {
  const page = readFileSync("web/index.html", "utf8");
  const links = [...page.matchAll(/href="([^"]+)"/g)].map(([, link = ""]) => link);

  expect(links.length).toBeGreaterThan(0);
  for (const link of ["/", ...links]) {
    const response = await fetch(`${server.url}${link}`);
    expect(response.status, link).toBe(200);
  }
});

test("README's snippet has no type error", { timeout: 120_000 }, async () => {
  const snippet = blocks.find(({ language }) => language === "ts")?.text ?? "";

  const ended = await withSnippet(snippet, (cwd) =>
    runCommand([resolve("node_modules/.bin/tsc"), "-p", "."], { cwd, timeoutMs: 90_000 }),
  );

  expect(ended).toMatchObject({ code: 0, stdout: "" });
});

test("every block of README is run, or is the output of one that is, or is named here", () => {
  const languages = new Set(["sh", "ts", "json", "text"]);
  const shell = blocks.filter(({ language }) => language === "sh").map(({ text }) => text.trim());

  expect(blocks.filter(({ language }) => !languages.has(language))).toEqual([]);
  expect(Object.keys(notRun).filter((command) => !shell.includes(command))).toEqual([]);
  for (const command of Object.keys(notRun)) {
    const [, script = "start"] = /&& npm (\w+)$/.exec(command) ?? [];
    expect(scripts).toHaveProperty(script);
  }
  expect(existsSync("deploy/docker-compose.yml")).toBe(true);
});

test("README, .env.example and the configuration name the same variables, and the same defaults", () => {
  const rows = rowsOf(readme, "variable");
  const example = [
    ...readFileSync(".env.example", "utf8").matchAll(/^(?:# )?([A-Z][A-Z0-9_]*)=(.*)$/gm),
  ].filter(([, name = ""]) => !name.startsWith("OTEL_"));

  const documented = Object.fromEntries(rows.map(([name = "", value = ""]) => [name, value]));
  const exampled = Object.fromEntries(example.map(([, name = "", value = ""]) => [name, value]));
  expect(Object.keys(documented).toSorted()).toEqual([...variableNames].toSorted());
  expect(documented).toEqual(exampled);
});

test("every npm script that the pages name is there, and what it starts, too", () => {
  const named = pages.flatMap((page) =>
    [...readFileSync(page, "utf8").matchAll(/\bnpm (?:run ([\w:-]+)|(start|test)\b)/g)].map(
      ([, run, own]) => run ?? own ?? "",
    ),
  );

  expect(named).toContain("start");
  for (const name of new Set(named)) {
    expect(scripts, name).toHaveProperty(name);
    const files = [...(scripts[name] ?? "").matchAll(/(?:\.\/)?(?:bench|scripts|src)\/[\w./-]+/g)];
    expect(files.filter(([file]) => !existsSync(file)).map(([file]) => file)).toEqual([]);
  }
});

test("README lists the verbs of the callora command, all of them", {
  timeout: 120_000,
}, async () => {
  const listed = rowsOf(readme, "command").flatMap(([command = ""]) =>
    command.startsWith("callora ") ? [command.split(" ").slice(1)] : [],
  );
  const groups = [...new Set(listed.flatMap(([verb = "", ...rest]) => (rest[0] ? [verb] : [])))];

  const [top = [], ...below] = await Promise.all(
    [[], ...groups.map((verb) => [verb])].map(verbsOf),
  );

  expect([...new Set(listed.map(([verb]) => verb))].toSorted()).toEqual(top.toSorted());
  for (const [index, group] of groups.entries()) {
    const own = listed.filter(([verb]) => verb === group).map(([, own]) => own);
    expect(own.toSorted()).toEqual(must(below[index]).toSorted());
  }
});

test("the image starts the server as npm start does", () => {
  const dockerfile = readFileSync("deploy/Dockerfile", "utf8");
  const [, command = ""] = /^CMD (.*)$/m.exec(dockerfile) ?? [];
  const started = startCommand();

  expect(JSON.parse(command)).toEqual(started.command);
  for (const [name, value] of Object.entries(started.settings)) {
    expect(dockerfile).toContain(` ${name}=${value}`);
  }
});

test.for(pages)("the links of %s lead somewhere", (page) => {
  const paths = pathsOf(readFileSync(page, "utf8"));

  const missing = paths.filter(
    (path) => !existsSync(resolve(dirname(page), path)) && !existsSync(path),
  );
  expect(missing).toEqual([]);
});

const endOfBlock = "\n-- end of block --\n";

/** One shell for all blocks: later ones use what earlier ones set. */
function scriptOf(texts: string[]): string {
  const head = `
    set -euo pipefail
    PATH=$PWD/node_modules/.bin:$PATH
    curl() { command curl --fail-with-body --silent --max-time 30 "$@"; }
    # What README says happens within a second.
    applied() {
      for _ in $(seq 100); do
        if curl "$url/v1/usage/watermark" -H "x-api-key: $key" |
          node -e 'const w = JSON.parse(fs.readFileSync(0)); process.exit(w.appliedPosition === w.durablePosition ? 0 : 1)'
        then return; fi
      done
      false
    }
  `;
  const parts = texts.map((text) => {
    const wait = text.includes("/v1/call/") ? "applied\n" : "";
    return `${text}\n${wait}printf '${endOfBlock.replaceAll("\n", "\\n").replace("--", "\\055-")}'\n`;
  });
  return `${head}\n${parts.join("")}`;
}

function expectOutput({ text, output }: Block, printed: string): void {
  if (output === undefined) {
    return;
  }
  const [value, shown] =
    output.language === "json"
      ? [JSON.parse(printed), JSON.parse(output.text)]
      : [printed.trim(), output.text.trim()];
  expect(isShown(value, shown), `${text}printed ${printed}`).toBe(true);
}

/** Work in a folder that looks like the project's and holds the snippet. */
async function withSnippet<T>(snippet: string, work: (cwd: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "callora-snippet-"));
  try {
    for (const name of ["gen", "node_modules", "package.json"]) {
      await symlink(resolve(name), join(directory, name));
    }
    const config = { extends: resolve("tsconfig.json"), include: ["snippet.ts"] };
    await writeFile(join(directory, "tsconfig.json"), JSON.stringify(config));
    await writeFile(join(directory, "snippet.ts"), snippet);
    return await work(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** The verbs that `callora`, or one of its verbs, says that it has. */
async function verbsOf(words: string[]): Promise<string[]> {
  const command = ["bin/callora", ...words, "--help"];
  const { stdout } = await runCommand(command, { timeoutMs: 90_000 });
  return [...(stdout.split("Commands:")[1] ?? "").matchAll(/^ {2}(\w+) /gm)]
    .map(([, name = ""]) => name)
    .filter((name) => name !== "help");
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
