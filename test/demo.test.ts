import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { runDemo } from "../src/cli/demo.ts";
import { password } from "./support/app.ts";
import { test } from "./support/test.ts";

const root = join(import.meta.dirname, "..");

const timeout = 180_000;

test("the demo does the main job on a server, and its sums agree", { timeout }, async ({ app }) => {
  const text: string[] = [];

  const ok = await runDemo({
    url: app.url,
    username: "root",
    password,
    out: { write: (piece) => text.push(piece) },
    env: {},
  });

  const lines = text.join("").trimEnd().split("\n");
  expect(lines.filter((line) => line.startsWith("✗"))).toEqual([]);
  expect(ok).toBe(true);
  expect(lines).toContainEqual(expect.stringContaining("175 answered and charged, 20 failed"));
  expect(lines).toContainEqual(
    "✓ consumer debits = developer credits + platform fee: 219752926 = 219752926",
  );
  expect(lines).toContainEqual(
    "✓ developer credits = paid on the chain + in flight + payable: 197777634 = 197777634",
  );
  expect(lines.at(-1)).toMatch(/^✓ The demo ran, and all sums agree to the last nano-USDC/);
  expect(text.join("")).not.toContain("\x1b");
});

test.for([
  {
    what: "a wrong password",
    options: { password: "not the password of anybody" },
    line: /^✗ The admin signs in \(REST\): .*expected a success, got 401 CREDENTIALS_INVALID/,
  },
  {
    what: "a server that is not there",
    options: { url: "http://127.0.0.1:1" },
    line: /^✗ A server answers: expected it to be done, got: Cannot reach a server at http/,
  },
])("the demo fails, and says why, with $what", async ({ options, line }, { app }) => {
  const text: string[] = [];
  const out = { write: (piece: string) => text.push(piece) };

  const ok = await runDemo({ url: app.url, username: "root", password, out, env: {}, ...options });

  const lines = text.join("").trimEnd().split("\n");
  expect(ok).toBe(false);
  expect(lines).toContainEqual(expect.stringMatching(line));
  expect(lines.at(-1)).toMatch(/^✗ The demo failed/);
});

test("without a server the demo starts one, and nothing is left of it", {
  timeout,
}, async () => {
  const directory = await mkdtemp(join(tmpdir(), "callora-demo-test-"));
  await chmod(directory, 0o711);
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(directory, { recursive: true, force: true }));
  const program = `
    const { runDemo } = await import(${JSON.stringify(join(root, "src", "cli", "demo.ts"))});
    // Nobody listens there, and fetch refuses no such port.
    const env = { ...process.env, PORT: "2" };
    process.exitCode = (await runDemo({ out: process.stdout, env })) ? 0 : 1;
  `;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", program], {
    cwd: directory,
    env: { PATH: process.env.PATH, HOME: process.env.HOME, TMPDIR: directory },
  });
  let output = "";
  child.stdout.on("data", (chunk) => {
    output += chunk;
  });
  child.stderr.on("data", (chunk) => {
    output += chunk;
  });

  const [code] = await once(child, "close");

  expect(output).toMatch(/✓ A server answers: http:\S+, started for the demo/);
  expect(output).toMatch(/✓ The demo ran, and all sums agree to the last nano-USDC.*\n$/);
  expect(code).toBe(0);
  expect(await readdir(directory)).toEqual([]);
  const url = /✓ A server answers: ([^\s,]+)/.exec(output)?.[1] ?? "";
  await expect(fetch(url)).rejects.toThrow("fetch failed");
});
