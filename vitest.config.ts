import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["src/**/*.test.ts", "scripts/**/*.test.ts", "test/**/*.test.ts"],
    globalSetup: ["test/support/global-setup.ts"],
    reporters: ["default", "./test/support/reporter.ts"],
    // Two workers for two cores: more only make the process tests miss their deadlines.
    maxWorkers: 2,
    // A busy machine takes many times as long: a test that hangs is found all the same.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Four looks a second: a poll through an RPC shall not meet the limit of its class (60 a minute).
    expect: { poll: { interval: 250, timeout: 10_000 } },
  },
});
