import { ConnectError } from "@connectrpc/connect";
import { type Config, ConfigError } from "./config.ts";
import { DatabaseConnectError } from "./db/connect-error.ts";

/** Say in one line why something could not be done. Several wrong variables are a line each. */
export function reasonOf(error: unknown, config?: Config): string {
  if (!(error instanceof Error)) {
    return `Cannot go on: ${String(error)}`;
  }
  if (error instanceof ConfigError) {
    const [, ...problems] = error.message.split("\n");
    return problems.length === 1 ? `Cannot start: ${problems[0]}` : error.message;
  }
  if (error instanceof DatabaseConnectError) {
    const name = variableOf(error.url, config);
    return name === undefined ? error.message : `${error.message}. Check ${name}`;
  }
  if ("code" in error && "port" in error) {
    const name = error.port === config?.server.port ? "PORT" : "STELLAR_DEVNET_PORT";
    if (error.code === "EADDRINUSE") {
      return `Cannot listen on port ${error.port}: another process does. Set ${name} to another one`;
    }
    if (error.code === "EACCES") {
      return `Cannot listen on port ${error.port}: not permitted. Set ${name} to one above 1023`;
    }
  }
  // What RPCs throw has the name of its code in front.
  return (error instanceof ConnectError ? error.rawMessage : error.message).split("\n")[0] ?? "";
}

/** The environment variable that an address came from. Undefined for the embedded PostgreSQL's. */
function variableOf(url: string, config?: Config): string | undefined {
  const database = config?.database;
  const names = {
    DATABASE_URL: database?.url,
    DATABASE_MIGRATE_URL: database?.migrateUrl,
    DATABASE_WORKER_URL: database?.workerUrl,
  };
  return Object.entries(names).find(([, value]) => value === url)?.[0];
}
