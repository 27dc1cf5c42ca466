import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, mkdtemp, open, readdir, rm, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const execute = promisify(execFile);
const prefix = "callora-disk-";

/** A small file system in memory, which can be filled. */
export interface SmallDisk extends AsyncDisposable {
  readonly path: string;
  /** Take every free byte. */
  fill(): Promise<void>;
  free(): Promise<void>;
}

/** Mount a small disk. Resolves to why not, in words, where that cannot be done: only root may mount. */
export async function mountSmallDisk({
  megabytes,
}: {
  megabytes: number;
}): Promise<SmallDisk | string> {
  await sweep();
  const path = await mkdtemp(join(tmpdir(), `${prefix}${process.pid}-`));
  const options = `size=${megabytes}m,mode=0711`;
  try {
    await execute("mount", ["-t", "tmpfs", "-o", options, "tmpfs", path]);
  } catch (error) {
    await rmdir(path);
    return String(error).split("\n").slice(0, 2).join(" ");
  }
  await chmod(path, 0o711);
  const filler = join(path, "filler");
  return {
    path,
    async fill() {
      await using file = await open(filler, "a");
      for (const bytes of [1_000_000, 4_096]) {
        const chunk = Buffer.alloc(bytes, 1);
        while (await isWritten(() => file.writeFile(chunk))) {}
      }
    },
    free: () => rm(filler, { force: true }),
    [Symbol.asyncDispose]: () => unmount(path),
  };
}

async function isWritten(write: () => Promise<void>): Promise<boolean> {
  try {
    await write();
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOSPC") {
      return false;
    }
    throw error;
  }
}

/** Lazily: whoever still has a file open loses it, and the directory can go. */
async function unmount(path: string): Promise<void> {
  await execute("umount", ["-l", path]).catch(() => {});
  await rmdir(path).catch(() => {});
}

/** Unmount what runs that were killed have left; a directory's name says whose it is. */
async function sweep(): Promise<void> {
  for (const entry of await readdir(tmpdir())) {
    const pid = new RegExp(`^${prefix}(\\d+)-`).exec(entry)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) {
      await unmount(join(tmpdir(), entry));
    }
  }
}
