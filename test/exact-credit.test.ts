import { Agent, request, type ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { until } from "./support/app.ts";
import type { Supervised } from "./support/faults.ts";
import { type Consumer, newConsumer, type SoldApi, sellApi } from "./support/gateway-market.ts";
import { readCharged } from "./support/gateway-oracle.ts";
import { type GatewayProving, openGatewayProving } from "./support/gateway-proving.ts";
import { seeded } from "./support/seeded.ts";

const seed = Number(process.env.CALLORA_SEED ?? Math.floor(Math.random() * 2 ** 31));
const credits = 333;
const price = 1_000_003n;
/** Calls of the first consumer that begin at the same moment. */
const atOnce = 5_000;
/** Who was refused tries again with so many others at a time, until there is no credit left. */
const retryingMax = 24;
/** Leases of a process that died last 15 s. */
const spentMsMax = 120_000;

/** The server that dies. */
const victim = 2;

interface Buyer {
  consumer: Consumer;
  api: SoldApi;
  /** Request ids of calls whose replies were whole. */
  served: string[];
  /** Of those that were broken off: whether they are charged, the database says. */
  broken: string[];
}

type End = "served" | "broken" | "refused" | "away";

/**
 * "Exactly 333 served" means: 333 replies arrive whole at their consumers, no more and no fewer. A call whose event was
 * durable when its process died, but whose reply was not sent, is charged and broken off: it cannot be told from one
 * whose reply was lost on the way. So one consumer's calls wait for the upstream when the process dies: none of them is
 * charged, and exactly 333 are served. The other's are anywhere: what is served and what is charged and broken off are
 * 333 together.
 */
test("of 5,000 calls at once with credit for 333, exactly 333 are served, though a process dies", {
  timeout: 240_000,
}, async () => {
  const upstream = holdingUpstream(seed);
  await using world = await openGatewayProving({ handler: upstream.handler });
  const held = await newBuyer(world);
  const free = await newBuyer(world);
  const begin = performance.now();

  const isSpent = () => hasNothing(world, [held, free]);
  const calling = Promise.all([
    // What dies has its share of the credit before the others take the rest.
    callAll(world, {
      buyer: held,
      first: atOnce,
      isSpent,
      hasShare: () => upstream.waiting >= 10,
    }),
    callAll(world, { buyer: free, first: 12, isSpent, hasShare: () => true }),
  ]);
  // All that the victim's upstream answered has arrived; what it still has to answer is not charged.
  const isMidway = () => upstream.waiting >= 10 && upstream.answered === upstream.seen(held.served);
  await until(isMidway, 60_000);
  const running = upstream.waiting;
  (world.servers[victim] as Supervised).signal("SIGKILL");
  upstream.holdNoMore();
  await calling;
  const [paidHeld, paidFree] = [await chargedCalls(world, held), await chargedCalls(world, free)];

  const brokenHeld = held.broken.filter((id) => paidHeld.has(id));
  const brokenFree = free.broken.filter((id) => paidFree.has(id));
  console.log(
    `Seed ${seed}: ${atOnce} calls at once over three processes, one killed with ${running} of them under way: ` +
      `${held.served.length} served, ${brokenHeld.length} charged and broken off; of calls anywhere on their way ` +
      `${free.served.length} served, ${brokenFree.length} charged and broken off; ` +
      `${Math.round(performance.now() - begin)} ms`,
  );
  expect(held.served).toHaveLength(credits);
  expect(brokenHeld).toEqual([]);
  expect(paidHeld.size).toBe(credits);
  expect(held.served.filter((id) => !paidHeld.has(id))).toEqual([]);
  expect(free.served.length + brokenFree.length).toBe(credits);
  expect(paidFree.size).toBe(credits);
  expect(free.served.filter((id) => !paidFree.has(id))).toEqual([]);
});

/** A developers' server. Of the first consumer it keeps the victim's calls waiting, but for a few. */
function holdingUpstream(from: number) {
  const random = seeded(from);
  const waiting = new Set<ServerResponse>();
  const answeredIds = new Set<string>();
  let isHolding = true;
  return {
    handler(incoming: { url?: string | undefined }, response: ServerResponse) {
      const [, id = ""] = (incoming.url ?? "").split("/");
      if (!id.endsWith(`-held-${victim}`)) {
        setTimeout(() => response.end("{}"), random() * 20);
      } else if (isHolding && answeredIds.size >= 5) {
        waiting.add(response);
        response.once("close", () => waiting.delete(response));
      } else {
        answeredIds.add(id);
        response.end("{}");
      }
    },
    get waiting() {
      return waiting.size;
    },
    get answered() {
      return answeredIds.size;
    },
    /** How many of these it answered while it kept others waiting. */
    seen: (ids: readonly string[]) => ids.filter((id) => answeredIds.has(id)).length,
    holdNoMore() {
      isHolding = false;
      for (const response of waiting) {
        response.end("{}");
      }
    },
  };
}

async function newBuyer({ place, upstreamUrl }: GatewayProving): Promise<Buyer> {
  const api = await sellApi(place, upstreamUrl, { callNanos: price });
  const creditNanos = BigInt(credits) * price;
  const consumer = await newConsumer(place, { creditNanos, apis: [0] });
  return { consumer, api, served: [], broken: [] };
}

/**
 * Call `first` times at once, the victim as soon as it can be, the others when it has its share. Who is not served calls
 * again, as long as there may be credit.
 */
async function callAll(
  { urls }: GatewayProving,
  {
    buyer,
    first,
    isSpent,
    hasShare,
  }: { buyer: Buyer; first: number; isSpent: () => Promise<boolean>; hasShare: () => boolean },
): Promise<void> {
  const kind = first === atOnce ? "held" : "free";
  const agent = new Agent({ keepAlive: true });
  let [next, isOver] = [0, false];

  async function call(at?: number): Promise<End> {
    const n = next++;
    const server = at ?? n % urls.length;
    const id = `${n}-${kind}-${server}`;
    const end = await callOnce(`${urls[server]}/v1/call/${buyer.api.slug}/${id}`, {
      id,
      secret: buyer.consumer.secret,
      agent,
    });
    if (end === "served") {
      buyer.served.push(id);
    } else if (end === "broken") {
      buyer.broken.push(id);
    }
    return end;
  }

  async function retry(): Promise<void> {
    while (!isOver) {
      if ((await call()) !== "served") {
        await sleep(100);
      }
    }
  }

  async function watch(): Promise<void> {
    const deadline = performance.now() + spentMsMax;
    while (!(await isSpent()) && performance.now() < deadline) {
      await sleep(250);
    }
    isOver = true;
  }

  const toVictim = Math.ceil(first / urls.length);
  const early = Array.from({ length: toVictim }, () => call(victim));
  await until(hasShare, 60_000);
  const others = Array.from({ length: first - toVictim }, (_, index) => call(index % victim));
  await Promise.all([...early, ...others]);
  const rest = Array.from({ length: retryingMax }, retry);
  await Promise.all([watch(), ...rest]);
  // Whoever comes now is refused.
  const late = await Promise.all(Array.from({ length: 30 }, () => call()));
  expect(late.filter((end) => end === "served" || end === "broken")).toEqual([]);
  agent.destroy();
}

function callOnce(
  url: string,
  { id, secret, agent }: { id: string; secret: string; agent: Agent },
): Promise<End> {
  return new Promise((resolve) => {
    let end: End = "broken";
    const sending = request(
      url,
      { agent, headers: { "x-api-key": secret, "x-request-id": id }, timeout: 60_000 },
      (response) => {
        response.on("error", () => {}).resume();
        response.on("end", () => {
          const isRefused = response.statusCode === 402;
          end = response.statusCode === 200 ? "served" : isRefused ? "refused" : "away";
        });
      },
    );
    sending.on("timeout", () => sending.destroy(new Error("it hangs")));
    sending.on("error", (error) => {
      end = "code" in error && error.code === "ECONNREFUSED" ? "away" : "broken";
    });
    sending.on("close", () => resolve(end));
    sending.end();
  });
}

/** Whether the buyers have no credit, and none is set aside. */
function hasNothing({ proving }: GatewayProving, buyers: readonly Buyer[]): Promise<boolean> {
  return proving.superuser(async (client) => {
    const { rows } = await client.query(
      `select coalesce(sum(credits_nanos - debits_nanos), 0)::text as held from ledger_accounts
       where account_id = any($1) and kind in ('consumer', 'lease_escrow')`,
      [buyers.map(({ consumer }) => consumer.accountId)],
    );
    return rows[0].held === "0";
  });
}

/** The calls of a buyer that are charged, each once, by request id. */
async function chargedCalls(
  { proving }: GatewayProving,
  { consumer }: Buyer,
): Promise<Set<string>> {
  const charged = await proving.superuser((client) => readCharged(client, consumer.accountId));
  expect([...charged].filter(([, times]) => times > 1)).toEqual([]);
  return new Set(charged.keys());
}
