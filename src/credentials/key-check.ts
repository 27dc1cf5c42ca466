import { timingSafeEqual } from "node:crypto";
import type { Database } from "../db/database.ts";
import { countOtherVersions, insertKeyChecks, listKeyChecks } from "./reseal-store.ts";
import type { Sealer } from "./seal.ts";

/**
 * Check that the keys are those that sealed what is stored, and remember the new ones. Called before anything is sealed.
 *
 * Throws, naming ENCRYPTION_KEYS and the version, when a key is not the one of its version, or when a version is missing
 * that credentials are still sealed with.
 */
export async function checkKeys({ db, sealer }: { db: Database; sealer: Sealer }): Promise<void> {
  await db.systemTransaction(async (tx) => {
    const own = new Map(sealer.versions.map((version) => [version, sealer.checkValue(version)]));
    const checks = [...own].map(([version, check_value]) => ({ version, check_value }));
    // First: of two processes that start with a new version at the same time, the second one finds the first one's.
    await insertKeyChecks(tx, checks);
    for (const { version, check_value } of await listKeyChecks(tx, sealer.versions)) {
      if (!timingSafeEqual(check_value, own.get(version) ?? Buffer.alloc(check_value.length))) {
        throw new Error(
          `Cannot start: ENCRYPTION_KEYS has another key of version ${version} than before; ` +
            "give it back, and give a new key a new version",
        );
      }
    }
    const [missing] = await countOtherVersions(tx, sealer.versions);
    if (missing !== undefined) {
      const what = missing.count === 1n ? "1 credential is" : `${missing.count} credentials are`;
      throw new Error(
        `Cannot start: ENCRYPTION_KEYS lacks version ${missing.version}, which ${what} sealed with; ` +
          "give it back until all are sealed again",
      );
    }
  });
}
