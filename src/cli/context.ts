import type { Config } from "../config.ts";
import type { Tenant } from "../db/database.ts";

/** What a command gets besides its options. */
export interface Context {
  config: Config;
  now: () => Date;
  /** Write a line to standard output. */
  print: (line: string) => void;
}

/** A command was called wrongly. The message says how. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** Whoever has the command line, as the actor of a change in an account. */
export function operator(accountId: string, action: string): Tenant {
  return { accountId, actor: "cli", ip: "", requestId: "", action, audited: () => {} };
}
