import { jsonDepth } from "../lib/exact-json.ts";
import { dataDepthMax } from "../lib/json-path.ts";

/** What is wrong with an event's data, which must be a JSON object or empty. Undefined: nothing. */
export function dataProblem(data: string): string | undefined {
  if (data === "") {
    return undefined;
  }
  if (jsonDepth(data) > dataDepthMax) {
    return `must not be deeper than ${dataDepthMax} levels`;
  }
  return isObjectText(data) ? undefined : "must be a JSON object";
}

function isObjectText(data: string): boolean {
  try {
    const value: unknown = JSON.parse(data);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}
