import type { MigrateConfig } from "../config.ts";
import { migrateDown, migrateUp, migrationStatus } from "../db/migrate.ts";
import { migrationsDirectory as directory } from "../db/migration-files.ts";
import { openEmbedded } from "./embedded.ts";
import { formatTable } from "./table.ts";

/** What the migrate commands get besides their options. */
export interface MigrateContext {
  config: MigrateConfig;
  print: (line: string) => void;
}

/** Apply what is pending. */
export async function up({ config, print }: MigrateContext): Promise<void> {
  await withOwner(config, async (url) => {
    const names = await migrateUp(url, { directory });
    for (const name of names) {
      print(`Applied ${name}`);
    }
    if (names.length === 0) {
      print("Nothing to apply");
    }
  });
}

/** Undo the last migration, the last few, or all above a version. */
export async function down(
  { config, print }: MigrateContext,
  options: { steps?: number; to?: number; force?: string[] },
): Promise<void> {
  await withOwner(config, async (url) => {
    const names = await migrateDown(url, { directory, ...options });
    for (const name of names) {
      print(`Undid ${name}`);
    }
    if (names.length === 0) {
      print("Nothing to undo");
    }
  });
}

/** Say of each migration whether it is applied. */
export async function status({ config, print }: MigrateContext): Promise<void> {
  await withOwner(config, async (url) => {
    const rows = (await migrationStatus(url, { directory })).map(({ name, state, appliedAt }) => [
      name,
      state,
      appliedAt?.toISOString() ?? "",
    ]);
    for (const line of formatTable(["MIGRATION", "STATE", "APPLIED AT"], rows)) {
      print(line);
    }
  });
}

async function withOwner(
  { url, dataDir }: MigrateConfig,
  work: (url: string) => Promise<void>,
): Promise<void> {
  if (url !== undefined) {
    return work(url);
  }
  await using stack = new AsyncDisposableStack();
  const { urls } = await openEmbedded(dataDir, stack);
  await work(urls.owner);
}
