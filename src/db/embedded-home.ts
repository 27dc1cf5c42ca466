import { createHash, randomBytes } from "node:crypto";
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { locateBinaries, usableBinaries } from "./embedded-binaries.ts";
import { EmbeddedPostgresError } from "./embedded-error.ts";
import { canEnter, chooseOwner, makePassable, type Owner, runAs } from "./embedded-owner.ts";
import { spawnGuarded, waitUntil } from "./embedded-process.ts";
import type { RolePasswords } from "./embedded-roles.ts";

/** An initialised cluster on disk and what it takes to run it. */
export interface Home {
  directory: string;
  /** PostgreSQL's data directory, with symbolic links resolved. */
  data: string;
  binaries: string;
  owner: Owner | null;
  passwords: Passwords;
}

/** The passwords of the superuser and of the three roles. */
export interface Passwords extends RolePasswords {
  superuser: string;
}

const postgresMajor = "18";
const initTimeoutMs = 120_000;
const unfinishedAgeMaxMs = 600_000;

/** Make the data directory if it is missing; as root, let PostgreSQL's user pass through it. */
export async function makeDataDir(dataDir: string): Promise<string> {
  const made = await mkdir(dataDir, { recursive: true });
  if (made !== undefined) await chmod(dataDir, 0o700);
  const { mode } = await stat(dataDir);
  if (isRoot() && (mode & 0o001) === 0) await chmod(dataDir, (mode & 0o777) | 0o011);
  return realpath(dataDir);
}

/**
 * Find the cluster of a data directory, or initialise one. The caller holds the directory's lock.
 * `stateDir` is where root keeps what PostgreSQL's user could not reach below `dataDir`.
 */
export async function prepareHome(options: {
  dataDir: string;
  stateDir: string;
  logFile: string;
  isSynced: boolean;
}): Promise<Home> {
  const { dataDir, stateDir } = options;
  await removeUnfinished(dataDir, /^postgres\.new-|^binaries-.*\.new-/, 0);
  const link = path.join(dataDir, "postgres");
  const existing = await realpath(link).catch(() => null);
  const dataOwner = existing === null ? null : await ownerOf(path.join(existing, "data"));
  const owner = chooseOwner({
    uid: process.getuid?.() ?? -1,
    hasName: hasName(),
    data: dataOwner,
    passwd: await readFile("/etc/passwd", "utf8").catch(() => ""),
  });
  const native = await realpath(locateBinaries(process.platform, process.arch));
  await removeUnfinished(stateDir, /^binaries-.*\.new-/, unfinishedAgeMaxMs);
  const copyDir = isRoot() ? stateDir : dataDir;
  const binaries = await usableBinaries({ native, owner, copyDir });
  const directory = existing ?? (await initialise({ ...options, owner, binaries, link }));
  if (existing !== null) await checkExisting({ directory, owner, dataOwner });
  return {
    directory,
    data: path.join(directory, "data"),
    binaries,
    owner,
    passwords: await readPasswords(directory),
  };
}

/** The passwords of the cluster in a directory. Null when they are not there or not for this user. */
export function findPasswords(directory: string): Promise<Passwords | null> {
  return readPasswords(directory).catch(() => null);
}

async function readPasswords(directory: string): Promise<Passwords> {
  return JSON.parse(await readFile(path.join(directory, "passwords.json"), "utf8"));
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function hasName(): boolean {
  try {
    return os.userInfo().username !== "";
  } catch {
    return false;
  }
}

async function ownerOf(data: string): Promise<Owner> {
  const found = await stat(data).catch((cause) => {
    const message = `Cannot use ${data}: ${cause.message}; restore it or remove ${path.dirname(data)}`;
    throw new EmbeddedPostgresError(message, { cause });
  });
  return { uid: found.uid, gid: found.gid };
}

async function checkExisting(options: {
  directory: string;
  owner: Owner | null;
  dataOwner: Owner | null;
}): Promise<void> {
  const { directory, owner, dataOwner } = options;
  const data = path.join(directory, "data");
  const version = (await readFile(path.join(data, "PG_VERSION"), "utf8")).trim();
  if (version !== postgresMajor) {
    const reason = `it was made by PostgreSQL ${version} and this is ${postgresMajor}`;
    throw new EmbeddedPostgresError(`Cannot use ${data}: ${reason}`);
  }
  if (owner !== null && dataOwner?.uid !== owner.uid) await chownTree(data, owner);
  if (!(await canEnter(owner, data))) {
    const reason = `user ${owner?.uid} may not pass a directory above it`;
    throw new EmbeddedPostgresError(`Cannot use ${data}: ${reason}; open it with chmod a+x`);
  }
}

async function chownTree(directory: string, { uid, gid }: Owner): Promise<void> {
  const failed = await runAs(null, "/bin/chown", ["-hR", `${uid}:${gid}`, directory]);
  if (failed !== null) throw new EmbeddedPostgresError(`Cannot use ${directory}: ${failed}`);
}

/** Initialise under another name, then rename: an interrupted start leaves nothing that counts. */
async function initialise(options: {
  dataDir: string;
  stateDir: string;
  logFile: string;
  isSynced: boolean;
  owner: Owner | null;
  binaries: string;
  link: string;
}): Promise<string> {
  const { dataDir, owner, link } = options;
  await removeDangling(link);
  const isReachable = await canEnter(owner, dataDir);
  const place = isReachable ? dataDir : await makePlace(options.stateDir, dataDir);
  const unfinished = await mkdtemp(path.join(place, "postgres.new-"));
  try {
    await chmod(unfinished, 0o711);
    await initdb({ ...options, directory: unfinished });
    const directory = path.join(place, "postgres");
    await rename(unfinished, directory);
    await syncDirectory(place);
    if (!isReachable) await symlink(directory, link);
    return directory;
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true, maxRetries: 3 });
    throw error;
  }
}

async function initdb(options: {
  directory: string;
  logFile: string;
  isSynced: boolean;
  owner: Owner | null;
  binaries: string;
}): Promise<void> {
  const { directory, owner, binaries, logFile, isSynced } = options;
  const secret = () => randomBytes(24).toString("base64url");
  const passwords: Passwords = {
    superuser: secret(),
    owner: secret(),
    app: secret(),
    worker: secret(),
  };
  const kept = path.join(directory, "passwords.json");
  await writeFile(kept, `${JSON.stringify(passwords)}\n`, { mode: 0o600, flush: true });
  const data = path.join(directory, "data");
  const passwordFile = path.join(directory, "superuser-password");
  await mkdir(data, { mode: 0o700 });
  await writeFile(passwordFile, passwords.superuser, { mode: 0o600 });
  if (owner !== null) {
    await chown(data, owner.uid, owner.gid);
    await chown(passwordFile, owner.uid, owner.gid);
  }
  const file = path.join(binaries, "bin/initdb");
  const args = ["-D", data, "-U", "postgres", `--pwfile=${passwordFile}`, "--encoding=UTF8"];
  args.push(
    "--locale-provider=builtin",
    "--locale=C.UTF-8",
    "--auth=scram-sha-256",
    "--no-instructions",
  );
  if (!isSynced) args.push("--no-sync");
  const running = await spawnGuarded({ file, args, owner, logFile });
  if (!(await waitUntil(running.hasExited, initTimeoutMs))) running.kill("SIGKILL");
  const how = await running.exited;
  if (how !== "exit code 0") {
    const reason = `initdb ended with ${how}; see ${logFile}`;
    throw new EmbeddedPostgresError(`Cannot initialise the embedded PostgreSQL: ${reason}`);
  }
  await rm(passwordFile);
}

/** A link whose cluster is gone; a real directory is never removed here. */
async function removeDangling(link: string): Promise<void> {
  if ((await readlink(link).catch(() => null)) !== null) await rm(link);
}

/** Make a directory for one cluster, and remove what interrupted first starts of `dataDir` have left. */
async function makePlace(stateDir: string, dataDir: string): Promise<string> {
  const name = createHash("sha256").update(dataDir).digest("hex").slice(0, 16);
  await makePassable(stateDir);
  const places = await readdir(stateDir);
  for (const place of places.filter((entry) => entry.startsWith(`${name}-`))) {
    const isComplete = await stat(path.join(stateDir, place, "postgres")).catch(() => null);
    if (isComplete === null) await rm(path.join(stateDir, place), { recursive: true, force: true });
  }
  const place = await mkdtemp(path.join(stateDir, `${name}-`));
  await chmod(place, 0o711);
  return place;
}

async function removeUnfinished(directory: string, names: RegExp, ageMinMs: number): Promise<void> {
  for (const entry of await readdir(directory).catch(() => [])) {
    const whole = path.join(directory, entry);
    if (!names.test(entry)) continue;
    const found = await stat(whole).catch(() => null);
    if (found === null || Date.now() - found.mtimeMs < ageMinMs) continue;
    // An initdb whose parent died may still be at work in there; what is left goes the next time.
    await rm(whole, { recursive: true, force: true }).catch(() => {});
  }
}

async function syncDirectory(directory: string): Promise<void> {
  await using handle = await open(directory, "r");
  await handle.sync();
}
