import { attachEmbedded, startEmbedded } from "../db/embedded.ts";
import { DataDirInUseError } from "../db/embedded-error.ts";

/** The database's addresses by role. */
export interface OpenUrls {
  urls: { owner: string; app: string; worker: string };
  /** Whether they are those of the embedded PostgreSQL of a running server. */
  isShared: boolean;
}

/** Start the embedded PostgreSQL until the stack ends, or join the one that a running server has. */
export async function openEmbedded(
  dataDir: string,
  stack: AsyncDisposableStack,
): Promise<OpenUrls> {
  try {
    const embedded = await startEmbedded({ dataDir });
    stack.defer(() => embedded.stop());
    return { urls: embedded.urls, isShared: false };
  } catch (error) {
    const urls = error instanceof DataDirInUseError ? await attachEmbedded(dataDir) : null;
    if (urls === null) {
      throw error;
    }
    return { urls, isShared: true };
  }
}
