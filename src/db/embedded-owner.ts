import { execFile } from "node:child_process";
import { chmod, mkdir } from "node:fs/promises";
import { EmbeddedPostgresError } from "./embedded-error.ts";

/** The system user that runs PostgreSQL, when it is not the one that runs this process. */
export interface Owner {
  uid: number;
  gid: number;
}

/** What the choice of a user depends on. */
export interface OwnerFacts {
  /** The user of this process. */
  uid: number;
  /** Whether the system knows that user by name; PostgreSQL's initdb refuses nameless ones. */
  hasName: boolean;
  /** The owner of an existing data directory, or null before the first start. */
  data: Owner | null;
  /** The text of /etc/passwd. */
  passwd: string;
}

const probeTimeoutMs = 10_000;

/**
 * Choose the user that runs PostgreSQL, which refuses to run as root. Null means this process's own
 * user. Throws EmbeddedPostgresError when there is none that could.
 */
export function chooseOwner({ uid, hasName, data, passwd }: OwnerFacts): Owner | null {
  if (uid !== 0) {
    if (data !== null && data.uid !== uid) {
      throw refusal(`its data belongs to user ${data.uid} and this process runs as user ${uid}`);
    }
    if (data === null && !hasName) {
      throw refusal(`user ${uid} has no entry in the system's user list`);
    }
    return null;
  }
  if (data !== null && data.uid !== 0) return data;
  const owner = findUser(passwd, "postgres") ?? findUser(passwd, "nobody");
  if (owner === null) {
    throw refusal("it does not run as root, and there is no user postgres or nobody to run it as");
  }
  return owner;
}

/** Run a short command as `owner`; return null if it succeeds, else one line saying why not. */
export function runAs(owner: Owner | null, file: string, args: string[]): Promise<string | null> {
  const options = { ...owner, cwd: "/", timeout: probeTimeoutMs, env: {} };
  return new Promise((resolve) => {
    execFile(file, args, options, (error, _stdout, stderr) => {
      if (error === null) resolve(null);
      else resolve(stderr.trim().split("\n")[0] || `${error.code ?? error.signal}`);
    });
  });
}

/** Whether `owner` can enter a directory: every directory above it may be closed to that user. */
export async function canEnter(owner: Owner | null, directory: string): Promise<boolean> {
  return (await runAs(owner, "/bin/sh", ["-c", 'cd "$1"', "sh", directory])) === null;
}

/** Make a directory that every user can pass through, whatever this process's umask is. */
export async function makePassable(directory: string): Promise<void> {
  if ((await mkdir(directory, { recursive: true })) !== undefined) await chmod(directory, 0o755);
}

function findUser(passwd: string, name: string): Owner | null {
  const fields = passwd
    .split("\n")
    .map((line) => line.split(":"))
    .find((parts) => parts[0] === name);
  const uid = Number(fields?.[2]);
  const gid = Number(fields?.[3]);
  return Number.isInteger(uid) && Number.isInteger(gid) && uid > 0 ? { uid, gid } : null;
}

function refusal(reason: string): EmbeddedPostgresError {
  const message = `Cannot start the embedded PostgreSQL: ${reason}; set DATABASE_URL instead`;
  return new EmbeddedPostgresError(message);
}
