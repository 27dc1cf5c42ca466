import { addressBlock } from "../lib/address.ts";
import { createLruMap } from "../lib/lru-map.ts";
import type { Exchange } from "./call.ts";
import { backAfter, chargeOf, judge, perMinute } from "./gcra.ts";
import { applyVerdict } from "./limit.ts";

/** Counts, by the caller's address (IPv6 by /64), the calls whose credential nobody knows. */
export interface Strangers {
  /**
   * Ask before a credential is looked up that is not in memory. Throws RESOURCE_EXHAUSTED with reason RATE_LIMITED when
   * too many of the address were unknown. Credentials in memory are not asked about: neighbours go on.
   */
  check(exchange: Exchange): void;
  /** Count a call with a credential that nobody knows. Throws like `check`, and then counts nothing. */
  count(exchange: Exchange): void;
}

/** Ten a second: more than all clients of an office make whose sessions have ended. */
const strangerRate = perMinute(600);
const limit = { id: "stranger", rate: strangerRate };
const charge = chargeOf(limit);

/** Addresses that are remembered. Past it the one is forgotten that was not heard of for longest. */
const blocksMax = 20_000;

/** Count in memory: each process for itself. */
export function createStrangers({ now }: { now: () => Date }): Strangers {
  // By the block of addresses, the time at which its whole budget is back.
  const backAt = createLruMap<number>(blocksMax);

  /** Throws when the address has no budget left. Else returns when the whole is back after one more. */
  function backAfterOne(exchange: Exchange, block: string): number {
    const nowUs = now().getTime() * 1000;
    const backAtUs = backAt.get(block) ?? 0;
    const verdict = judge([{ limit, charge, backAtUs }], nowUs);
    if (!verdict.allowed) {
      applyVerdict(exchange, verdict);
    }
    return backAfter(charge, backAtUs, nowUs);
  }

  return {
    check(exchange) {
      if (backAt.size > 0) {
        backAfterOne(exchange, addressBlock(exchange.clientIp));
      }
    },
    count(exchange) {
      const block = addressBlock(exchange.clientIp);
      backAt.set(block, backAfterOne(exchange, block));
    },
  };
}
