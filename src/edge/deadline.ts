import { HttpError } from "./rest/errors.ts";
import { timeoutMsMax } from "./unary/codec.ts";

const units: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1_000,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};

/**
 * How long a caller over REST waits, in milliseconds: Grpc-Timeout, else Connect-Timeout-Ms, else
 * X-Server-Timeout (in seconds). More than the server allows counts as what it allows. Undefined
 * without any of them. Throws HttpError 400 for a malformed one.
 */
export function deadlineOf(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): number | undefined {
  for (const [name, read] of readers) {
    const value = headers[name];
    if (value !== undefined) {
      const ms = typeof value === "string" ? read(value) : undefined;
      if (ms === undefined) {
        throw new HttpError(400, `Cannot read ${name}: it is malformed`);
      }
      return Math.min(ms, timeoutMsMax);
    }
  }
  return undefined;
}

const readers: readonly (readonly [string, (value: string) => number | undefined])[] = [
  [
    "grpc-timeout",
    (value) => {
      const [, digits, unit = ""] = /^(\d{1,8})([HMSmun])$/.exec(value) ?? [];
      return digits === undefined ? undefined : Math.ceil(Number(digits) * (units[unit] ?? 0));
    },
  ],
  ["connect-timeout-ms", (value) => (/^\d{1,10}$/.test(value) ? Number(value) : undefined)],
  [
    "x-server-timeout",
    (value) =>
      /^\d{1,10}(?:\.\d{0,9})?$|^\.\d{1,9}$/.test(value)
        ? Math.ceil(Number(value) * 1000)
        : undefined,
  ],
];
