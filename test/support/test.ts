import { test as base } from "vitest";
import { startTestApp } from "./app.ts";

/** `test`, with a server as a fixture: one database for each test file. */
export const test = base.extend<{ $file: { app: Awaited<ReturnType<typeof startTestApp>> } }>({
  app: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using app = await startTestApp();
      await use(app);
    },
    { scope: "file" },
  ],
});
