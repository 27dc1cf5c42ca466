import { readdir, readFile } from "node:fs/promises";
import path from "node:path";

/** The migrations that this version needs. */
export const migrationsDirectory = path.join(import.meta.dirname, "..", "..", "migrations");

/** A migration as it lies in its directory. */
export interface MigrationFile {
  version: number;
  /** Number and words, as "0002_create_audit_logs". */
  name: string;
  up: string;
  upFile: string;
  /** Null when the migration cannot be undone. */
  down: string | null;
  downFile: string;
}

/** The files in a migrations directory do not make a sequence. */
export class MigrationFileError extends Error {
  override name = "MigrationFileError";
}

/** Read a directory of `NNNN_name.up.sql` and `.down.sql`, numbered from 0001 without a gap. */
export async function readMigrations(directory: string): Promise<MigrationFile[]> {
  const entries = await readdir(directory);
  const files = entries.filter((entry) => entry.endsWith(".sql")).sort();
  const names = new Set<string>();
  for (const file of files) {
    const match = /^(\d{4}_[a-z0-9_]+)\.(up|down)\.sql$/.exec(file);
    if (match?.[1] === undefined) {
      throw cannotRead(directory, `file ${file} is not named NNNN_name.up.sql or .down.sql`);
    }
    names.add(match[1]);
  }
  const migrations: MigrationFile[] = [];
  for (const name of names) {
    const upFile = `${name}.up.sql`;
    const downFile = `${name}.down.sql`;
    const version = Number(name.slice(0, 4));
    const previous = migrations.at(-1);
    if (previous?.version === version) {
      throw cannotRead(directory, `${previous.name} and ${name} have the same number`);
    }
    if (version !== migrations.length + 1) {
      const missing = String(migrations.length + 1).padStart(4, "0");
      throw cannotRead(directory, `${missing} is missing before ${name}`);
    }
    if (!files.includes(upFile)) throw cannotRead(directory, `file ${upFile} is missing`);
    const up = await readFile(path.join(directory, upFile), "utf8");
    const hasDown = files.includes(downFile);
    const down = hasDown ? await readFile(path.join(directory, downFile), "utf8") : null;
    migrations.push({ version, name, up, upFile, down, downFile });
  }
  return migrations;
}

function cannotRead(directory: string, reason: string): MigrationFileError {
  return new MigrationFileError(`Cannot read the migrations in ${directory}: ${reason}`);
}
