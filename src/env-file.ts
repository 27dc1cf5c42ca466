import { existsSync } from "node:fs";
import path from "node:path";

/**
 * Add the variables of the folder's `.env` file, if it has one, to the process's environment. A
 * variable that is set already keeps its value. Returns whether there was a file.
 */
export function loadEnv(cwd: string): boolean {
  const file = path.join(cwd, ".env");
  if (!existsSync(file)) {
    return false;
  }
  process.loadEnvFile(file);
  return true;
}
