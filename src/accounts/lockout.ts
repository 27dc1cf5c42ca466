import { createHash } from "node:crypto";
import { Code } from "@connectrpc/connect";
import { addressBlock } from "../lib/address.ts";
import { isId } from "../lib/id.ts";
import { createLruMap } from "../lib/lru-map.ts";
import { reasoned } from "../rpc/errors.ts";
import { perMinute } from "../rpc/gcra.ts";
import type { Limiter } from "../rpc/limiter.ts";

/** Whose password somebody tries, and from where. */
export interface Attempt {
  /** The person's id; of a name that nobody has, what `strangerOf` makes of it. */
  subject: string;
  /** The hash of the password that is tried. Null: there is none. */
  passwordHash: string | null;
  /** Whether a session of the person is there already: then only the wrong passwords of the address count. */
  isSignedIn?: boolean;
  ip: string;
  now: Date;
}

/** Slows down whoever guesses passwords. */
export interface Lockout {
  /** Ask before a password is looked at. Rejects with RESOURCE_EXHAUSTED, reason SIGN_IN_DELAYED, to have one wait. */
  check(attempt: Attempt): Promise<void>;
  /** Count a wrong password. */
  failed(attempt: Attempt): Promise<void>;
  /** Forget the wrong passwords of before. */
  succeeded(attempt: Attempt): void;
}

/** The subject of a name that nobody has: it is slowed down like a person's, and never one's id. */
export function strangerOf(name: string): string {
  return `name:${name.toLowerCase()}`;
}

/** Wrong passwords that cost no wait: people mistype. */
const freeFailures = 4;
const delayMsMin = 2_000;
const delayMsMax = 15 * 60_000;
/** After so long without a wrong password all is forgotten. */
const memoryMs = 60 * 60_000;
/** Pairs of subject and address that are remembered. Past it the oldest are forgotten. */
const pairsMax = 100_000;

/** Wrong passwords of one address for one person, over all processes that share limits: twenty, then one in 3 minutes. */
const pairRate = perMinute(1 / 3, 20);
/** Sign-ins of one person by one password from addresses they never signed in from: fifty, then one in ten minutes. */
const unfamiliarRate = perMinute(0.1, 50);

interface Deps {
  limiter: Limiter;
  /** Whether the person signed in from the address's block before. Asked only when others have tried too often. */
  isFamiliar: (attempt: Attempt) => Promise<boolean>;
}

/**
 * Count wrong passwords for each person and block of addresses. From the fourth on each doubles the wait, up to 15
 * minutes. That is in memory; beside it the limiter bounds, over all processes, what an address gets, and what a person's
 * password takes from all addresses together.
 *
 * Others' guesses keep nobody out: addresses that the person signed in from before do not wait for them, and a new
 * password has a new budget, so that whoever is elsewhere chooses one by mail.
 */
export function createLockout({ limiter, isFamiliar }: Deps): Lockout {
  const failures = createLruMap<Failures>(pairsMax);

  function pairOf({ subject, ip }: Attempt) {
    const block = addressBlock(ip);
    const limit = { id: `guess:${digest(subject, block)}`, rate: pairRate, isOfStranger: true };
    return { key: `${subject} ${block}`, limit };
  }

  /** The time that an address has to wait. */
  async function pairWaitMs(attempt: Attempt): Promise<number> {
    const { key, limit } = pairOf(attempt);
    const known = failures.get(key);
    const ownMs = known === undefined ? 0 : waitOf(known) - attempt.now.getTime();
    if (ownMs > 0) {
      return ownMs;
    }
    const { remaining, resetMs } = await limiter.take([{ ...limit, cost: 0 }], attempt.now);
    const { intervalMs, burst } = limit.rate;
    return remaining > 0 ? 0 : Math.max(1, Math.ceil(resetMs - intervalMs * (burst - 1)));
  }

  /** The time that whoever is not familiar has to wait. */
  async function personWaitMs(attempt: Attempt): Promise<number> {
    const { subject, passwordHash, now } = attempt;
    const id = `guesses:${digest(subject, passwordHash ?? "")}`;
    const isOfStranger = !isId("usr", subject);
    const verdict = await limiter.take([{ id, rate: unfamiliarRate, isOfStranger }], now);
    return verdict.allowed || (await isFamiliar(attempt)) ? 0 : verdict.retryAfterMs;
  }

  return {
    async check(attempt) {
      const waitMs =
        (await pairWaitMs(attempt)) ||
        (attempt.isSignedIn === true ? 0 : await personWaitMs(attempt));
      if (waitMs > 0) {
        throw delayed(waitMs);
      }
    },
    async failed(attempt) {
      const { key, limit } = pairOf(attempt);
      const nowMs = attempt.now.getTime();
      const known = failures.get(key);
      const isRecent = known !== undefined && nowMs - known.lastMs < memoryMs;
      failures.set(key, { count: (isRecent ? known.count : 0) + 1, lastMs: nowMs });
      await limiter.take([limit], attempt.now);
    },
    succeeded(attempt) {
      failures.delete(pairOf(attempt).key);
    },
  };
}

interface Failures {
  count: number;
  lastMs: number;
}

/** When the next attempt is welcome. */
function waitOf({ count, lastMs }: Failures): number {
  if (count < freeFailures) {
    return 0;
  }
  return lastMs + Math.min(delayMsMin * 2 ** (count - freeFailures), delayMsMax);
}

function delayed(waitMs: number) {
  const seconds = Math.ceil(waitMs / 1000);
  return reasoned(Code.ResourceExhausted, {
    reason: "SIGN_IN_DELAYED",
    message: `Cannot sign in now: too many wrong passwords, try again in ${seconds} s`,
    retryAfterMs: waitMs,
  });
}

/** Where limits are counted, names and hashes of passwords have no business. */
function digest(...parts: readonly string[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("base64url");
}
