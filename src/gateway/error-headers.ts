import type { Admission } from "./admission.ts";
import { serverTiming, type Times } from "./reply.ts";

/** What an error says of its call besides what was asked when it was admitted. */
export interface Terms {
  /** Null: nobody knows. */
  chargedNanos: bigint | null;
  /** Null: it was not passed on. */
  times: Readonly<Times> | null;
}

/** Answer with an error, which says what the call cost and what is left, as a reply would. */
export function failWith(admission: Admission, error: unknown, terms: Terms): void {
  tellTerms(admission, terms);
  admission.passing.fail(error);
}

/** Set the headers of an error that is to follow. What was not found out before it came is left out. */
export function tellTerms(admission: Admission, { chargedNanos, times }: Terms): void {
  const { inbound, purse, passing } = admission;
  // Not there until the call has found its route.
  const price: Admission["price"] | undefined = admission.price;
  if (price !== undefined) {
    inbound.setHeader("x-callora-price-version", String(price.pinned.version));
  }
  if (chargedNanos !== null) {
    inbound.setHeader("x-callora-charged-nanos", String(chargedNanos));
  }
  const remainingNanos = purse?.remainingNanos ?? null;
  if (remainingNanos !== null) {
    inbound.setHeader("x-callora-remaining-nanos", String(remainingNanos));
  }
  const { principal } = passing.call;
  if (principal?.kind === "key" && principal.mode === "test") {
    inbound.setHeader("x-callora-mode", "test");
  }
  inbound.setHeader("server-timing", serverTiming(admission, endedNow(admission, times)));
}

/** The upstream had its time until the call failed. */
function endedNow({ deps }: Admission, times: Readonly<Times> | null): Times {
  if (times === null || times.dispatchedMs === 0) {
    return { dispatchedMs: 0, triedMs: 0, answeredMs: 0, pushedMs: 0 };
  }
  return { ...times, answeredMs: times.pushedMs || deps.nowMs() };
}
