import { Code } from "@connectrpc/connect";
import { addressBlock } from "../lib/address.ts";
import { reasoned } from "../rpc/errors.ts";

/** Who tries to sign in, and from where. */
export interface Attempt {
  /** The name or mail address that was given, whether anybody has it or not. */
  name: string;
  ip: string;
  now: Date;
}

/** Slows down whoever guesses passwords. */
export interface Lockout {
  /** Throws RESOURCE_EXHAUSTED with reason SIGN_IN_DELAYED while the name has to wait from this address. */
  check(attempt: Attempt): void;
  /** Count a wrong password. */
  failed(attempt: Attempt): void;
  /** Forget the wrong passwords of before. */
  succeeded(attempt: Attempt): void;
}

/** Wrong passwords that cost no wait: people mistype. */
const freeFailures = 4;
const delayMsMin = 2_000;
const delayMsMax = 15 * 60_000;
/** After so long without a wrong password all is forgotten. */
const memoryMs = 60 * 60_000;
/** Pairs of name and address that are remembered. Past it the oldest are forgotten. */
const pairsMax = 100_000;

/**
 * Count wrong passwords for each name and block of addresses. From the fourth on each doubles the wait, up to
 * 15 minutes. Others' guesses do not keep a person out: they come from other addresses.
 *
 * In memory: each process counts what it sees. The limit on calls of an address comes before it.
 */
export function createLockout(): Lockout {
  const failures = new Map<string, { count: number; lastMs: number }>();
  return {
    check(attempt) {
      const known = failures.get(keyOf(attempt));
      const waitMs = known === undefined ? 0 : waitOf(known) - attempt.now.getTime();
      if (waitMs > 0) {
        const seconds = Math.ceil(waitMs / 1000);
        throw reasoned(Code.ResourceExhausted, {
          reason: "SIGN_IN_DELAYED",
          message: `Cannot sign in now: too many wrong passwords, try again in ${seconds} s`,
          retryAfterMs: waitMs,
        });
      }
    },
    failed(attempt) {
      const key = keyOf(attempt);
      const nowMs = attempt.now.getTime();
      const known = failures.get(key);
      const isRecent = known !== undefined && nowMs - known.lastMs < memoryMs;
      failures.delete(key);
      failures.set(key, { count: (isRecent ? known.count : 0) + 1, lastMs: nowMs });
      const oldest = failures.keys().next();
      if (failures.size > pairsMax && !oldest.done) {
        failures.delete(oldest.value);
      }
    },
    succeeded(attempt) {
      failures.delete(keyOf(attempt));
    },
  };
}

function keyOf({ name, ip }: Attempt): string {
  return `${name.toLowerCase()} ${addressBlock(ip)}`;
}

/** When the next attempt is welcome. */
function waitOf({ count, lastMs }: { count: number; lastMs: number }): number {
  if (count < freeFailures) {
    return 0;
  }
  return lastMs + Math.min(delayMsMin * 2 ** (count - freeFailures), delayMsMax);
}
