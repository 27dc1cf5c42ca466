import { chmod, cp, mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { locateBinaries, usableBinaries, whyUnusable } from "./embedded-binaries.ts";

const isRoot = process.getuid?.() === 0;
let directory: string;
let native: string;

beforeAll(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), "callora-binaries-"));
  await chmod(directory, 0o755);
  native = path.join(directory, "package/native");
  await mkdir(path.dirname(native));
  const installed = locateBinaries(process.platform, process.arch);
  await cp(installed, native, { recursive: true, verbatimSymlinks: true });
  await cp(path.join(installed, "../package.json"), path.join(native, "../package.json"));
});

afterAll(() => rm(directory, { recursive: true, force: true }));

test("binaries whose install script was skipped are repaired where they are", async () => {
  for (const entry of await readdir(path.join(native, "lib"), { withFileTypes: true })) {
    if (entry.isSymbolicLink()) await rm(path.join(native, "lib", entry.name));
  }
  expect(await whyUnusable(native, null)).toMatch(/libicui18n/);

  const usable = await usableBinaries({ native, owner: null, copyDir: directory });

  expect(usable).toBe(native);
  expect(await whyUnusable(native, null)).toBeNull();
});

test.runIf(isRoot)("binaries below a closed directory are copied once", async () => {
  const nobody = { uid: 65534, gid: 65534 };
  await chmod(path.dirname(native), 0o700);

  const first = await usableBinaries({ native, owner: nobody, copyDir: directory });
  const second = await usableBinaries({ native, owner: nobody, copyDir: directory });

  expect(await whyUnusable(native, nobody)).toMatch(/EACCES/);
  expect(await whyUnusable(first, nobody)).toBeNull();
  expect(second).toBe(first);
  expect((await readdir(directory)).filter((name) => name.includes(".new-"))).toEqual([]);
});

test("a platform without binaries is told of DATABASE_URL", () => {
  expect(() => locateBinaries("plan9", "mips")).toThrow(/plan9-mips.*DATABASE_URL/);
});
