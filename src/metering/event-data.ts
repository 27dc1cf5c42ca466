import { jsonDepth } from "../lib/exact-json.ts";

/** How deep lists and objects may lie in each other in an event's data. */
export const dataDepthMax = 16;

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
