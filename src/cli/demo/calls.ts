import { type Clients, readStatus } from "./clients.ts";
import { expectSame } from "./report.ts";
import { brokenPath, quotePath } from "./upstream.ts";
import { inParallel } from "./wait.ts";

/** The way to one API. */
export interface Gateway {
  clients: Clients;
  slug: string;
}

/** How a call through the gateway was answered. */
export interface CallReply {
  status: number;
  /** Why it was refused. Empty when it was not. */
  reason: string;
  /** What the reply says was charged. Null when it says nothing. */
  chargedNanos: bigint | null;
}

/** The calls that one consumer makes, and how they must be answered. */
export interface CallPlan {
  secret: string;
  /** Answered by the upstream, and charged. */
  answered: number;
  /** Failed by the upstream, and free. */
  broken: number;
  /** Made when the balance is exhausted, and refused. */
  refused: number;
}

const callsAtOnceMax = 12;

/** Make one call through the gateway, as a consumer does. */
export async function callGateway(
  { clients, slug }: Gateway,
  { secret, path }: { secret: string; path: string },
): Promise<CallReply> {
  const reply = await clients.fetch(`/v1/call/${slug}${path}`, {
    headers: { "x-api-key": secret },
  });
  const text = await reply.text();
  const charged = reply.headers.get("x-callora-charged-nanos");
  return {
    status: reply.status,
    reason: reply.ok ? "" : readStatus(text).reason,
    chargedNanos: charged === null ? null : BigInt(charged),
  };
}

/** Make all calls of the plans, mixed and some at a time, and compare each consumer's replies. */
export async function makeCalls(
  gateway: Gateway,
  plans: readonly CallPlan[],
  callNanos: bigint,
): Promise<void> {
  const calls = plans
    .flatMap((plan, consumer) => [
      ...spread(plan.answered + plan.refused, { consumer, plan, path: `${quotePath}?symbol=XLM` }),
      ...spread(plan.broken, { consumer, plan, path: brokenPath }),
    ])
    .sort((a, b) => a.place - b.place);
  const replies = await inParallel(
    calls.map(({ consumer, plan, path }) => async () => {
      const reply = await callGateway(gateway, { secret: plan.secret, path });
      return { consumer, kind: kindOf(reply, callNanos) };
    }),
    callsAtOnceMax,
  );
  plans.forEach(({ answered, broken, refused }, consumer) => {
    const kinds = replies.filter((reply) => reply.consumer === consumer).map(({ kind }) => kind);
    const wanted = {
      "200, charged": answered,
      "500, free": broken,
      "402 CREDIT_EXHAUSTED, free": refused,
    };
    const expected = Object.fromEntries(Object.entries(wanted).filter(([, count]) => count > 0));
    expectSame(`replies to consumer ${consumer + 1}`, countOf(kinds), expected);
  });
}

/** The same call so many times, evenly placed among the calls of the others. */
function spread<T extends object>(count: number, call: T): (T & { place: number })[] {
  return Array.from({ length: count }, (_, index) => ({ ...call, place: (index + 0.5) / count }));
}

function kindOf({ status, reason, chargedNanos }: CallReply, callNanos: bigint): string {
  const charges: Record<string, string> = { "0": "free", [String(callNanos)]: "charged" };
  const what = `${status} ${reason}`.trimEnd();
  return `${what}, ${charges[String(chargedNanos)] ?? `charged ${chargedNanos}`}`;
}

function countOf(kinds: string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const kind of kinds) {
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}
