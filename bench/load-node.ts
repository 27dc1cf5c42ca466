/**
 * How Node runs what loads a server that is measured: where it collects its own garbage, every call in flight waits,
 * and the more so while the server leaves no processor to the threads that would help.
 */
export const loadNodeArgs: readonly string[] = [
  "--min-semi-space-size=64",
  "--max-semi-space-size=64",
  "--no-parallel-scavenge",
];
