import { Agent, type IncomingMessage, type RequestListener, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type { GatewayMarket, SoldApi } from "./gateway-market.ts";
import { seeded } from "./seeded.ts";

/** How a call goes: what the upstream is asked to do, and what its consumer does. */
export const kinds = ["plain", "stream", "large", "slow", "fail", "dies", "left"] as const;
export type Kind = (typeof kinds)[number];

/** Of a hundred calls. */
const shares: Readonly<Record<Kind, number>> = {
  plain: 60,
  stream: 14,
  large: 6,
  slow: 8,
  fail: 4,
  dies: 4,
  left: 4,
};

/** A call, and what its consumer saw of it. */
export interface SeenCall {
  /** Its request id, which its event names. */
  id: string;
  n: number;
  consumer: number;
  api: number;
  kind: Kind;
  begunMs: number;
  endedMs: number;
  /** Whether the reply arrived whole. */
  isWhole: boolean;
  /** Zero: none began. */
  status: number;
  /** Whether the reply is the upstream's. */
  isPassedOn: boolean;
  /** What the reply said it cost. Null: nothing. */
  chargedNanos: bigint | null;
  /** Why the gateway refused it. Empty unless it did. */
  reason: string;
}

/** Consumers that call all the time. */
export interface GatewayLoad {
  readonly calls: readonly SeenCall[];
  /** Wait until a call that begins from now on is served. Throws when that takes longer. */
  served(withinMs: number): Promise<void>;
  /**
   * Call a server many times at once, and act in the moment in which one of the first replies has arrived whole: others
   * are about to be sent then. Acts at the end when none arrives.
   */
  amidBurst(where: { server: number; consumer: number }, act: () => void): Promise<void>;
  /** The servers, by index, that answered when they were called last. */
  answering(): readonly number[];
  /** Begin no more calls, and wait for those that run. */
  stop(): Promise<void>;
}

const burstCalls = 32;
/** At one of so many first replies. */
const burstActsAt = 8;

/** How long a call may take before it counts as one that hangs. */
export const hangMs = 45_000;

const large = Buffer.alloc(200_000, " ");

/** Units that the reply to a call names. */
export function unitsOf(n: number): number {
  return 1 + (n % 7);
}

/** What a call is charged when it is served. */
export function priceOf(api: SoldApi, n: number): bigint {
  return api.callNanos + api.unitNanos * BigInt(unitsOf(n));
}

/** What the developers' server does: as the path says. */
export const answer: RequestListener = (incoming, response) => {
  incoming.resume();
  const [, kind, n] = (incoming.url ?? "").split("/");
  const body = `{"units":${unitsOf(Number(n))}}`;
  response.setHeader("content-type", "application/json");
  const later = (ms: number, work: () => void) => {
    const timer = setTimeout(work, ms);
    response.once("close", () => clearTimeout(timer));
  };
  if (kind === "fail") {
    response.statusCode = 500;
    response.end('{"failed":true}');
  } else if (kind === "dies") {
    response.write("{");
    later(5, () => response.destroy());
  } else if (kind === "stream" || kind === "left") {
    response.write(" ");
    later(10, () => {
      response.write(body);
      later(10, () => response.end());
    });
  } else if (kind === "slow") {
    later(300, () => response.end(body));
  } else {
    response.end(kind === "large" ? Buffer.concat([large, Buffer.from(body)]) : body);
  }
};

interface LoadOptions {
  urls: readonly string[];
  market: GatewayMarket;
  seed: number;
  workers?: number;
  pauseMs?: number;
  only?: readonly Kind[];
}

/** Begin to call: so many workers for each server, each with a pause between two calls. */
export function startGatewayLoad(options: LoadOptions): GatewayLoad {
  const { urls, market, workers = 4, pauseMs = 20 } = options;
  const caller = createCaller(options);
  const { calls, random, call } = caller;
  let isStopping = false;

  async function work(server: number): Promise<void> {
    while (!isStopping) {
      const { isPassedOn } = await call(server, {});
      // A server that is away is not asked so often.
      await sleep(random() * 2 * pauseMs + (isPassedOn ? 0 : 200));
    }
  }

  const running = Promise.all(
    urls.flatMap((_, server) => Array.from({ length: workers }, () => work(server))),
  );
  return {
    calls,
    served: (withinMs) => untilServed(market, { calls, withinMs }),
    async amidBurst({ server, consumer }, act) {
      let left = 1 + Math.floor(random() * burstActsAt);
      const once = () => {
        left -= 1;
        if (left === 0) {
          act();
        }
      };
      const one = { kind: "plain", consumer, whole: once } as const;
      await Promise.all(Array.from({ length: burstCalls }, () => call(server, one)));
      while (left > 0) {
        once();
      }
    },
    answering: caller.answering,
    async stop() {
      isStopping = true;
      await running;
      caller.close();
    },
  };
}

/** Makes calls that nobody made before, and keeps what was seen of them. */
function createCaller({ urls, market, seed, only = kinds }: LoadOptions) {
  const random = seeded(seed);
  const agents = urls.map(() => new Agent({ keepAlive: true }));
  const isAnswering = urls.map(() => true);
  const calls: SeenCall[] = [];
  let next = 0;
  return {
    calls,
    random,
    async call(
      server: number,
      {
        kind = pickKind(random(), only),
        consumer = Math.floor(random() * market.consumers.length),
        whole = () => {},
      }: { kind?: Kind; consumer?: number; whole?: () => void },
    ): Promise<SeenCall> {
      const n = next++;
      const { apis } = pick(market.consumers, consumer);
      const api = pick(apis, Math.floor(random() * apis.length));
      const one = { id: `call-${seed}-${n}`, n, consumer, api, kind };
      const agent = pick(agents, server);
      const seen = await see(pick(urls, server), { ...one, market, agent, whole });
      calls.push(seen);
      isAnswering[server] = seen.status > 0;
      return seen;
    },
    answering: () => urls.flatMap((_, server) => (isAnswering[server] ? [server] : [])),
    close() {
      for (const agent of agents) {
        agent.destroy();
      }
    },
  };
}

async function untilServed(
  { apis }: GatewayMarket,
  { calls, withinMs }: { calls: readonly SeenCall[]; withinMs: number },
): Promise<void> {
  const from = performance.now();
  for (let looked = calls.length; ; ) {
    for (; looked < calls.length; looked++) {
      const call = pick(calls, looked);
      const isDurable = !pick(apis, call.api).isAsync;
      if (call.begunMs > from && call.isWhole && call.status === 200 && isDurable) {
        return;
      }
    }
    if (performance.now() - from > withinMs) {
      throw new Error(`no call was served for ${withinMs} ms: ${words(calls)}`);
    }
    await sleep(10);
  }
}

/** Make one call, and see what becomes of it. */
export async function see(
  url: string,
  {
    market,
    agent,
    whole = () => {},
    ...call
  }: Pick<SeenCall, "id" | "n" | "consumer" | "api" | "kind"> & {
    market: GatewayMarket;
    agent: Agent;
    /** Called in the moment in which a whole reply of the upstream's is there. */
    whole?: () => void;
  },
): Promise<SeenCall> {
  const { kind, n } = call;
  const seen: SeenCall = {
    ...call,
    begunMs: performance.now(),
    endedMs: 0,
    isWhole: false,
    status: 0,
    isPassedOn: false,
    chargedNanos: null,
    reason: "",
  };
  const { slug } = pick(market.apis, call.api);
  const { secret } = pick(market.consumers, call.consumer);
  await new Promise<void>((resolve) => {
    const sending = request(
      `${url}/v1/call/${slug}/${kind}/${n}`,
      { agent, headers: { "x-api-key": secret, "x-request-id": call.id }, timeout: hangMs },
      (response) => read(response, { seen, isLeft: kind === "left", whole }),
    );
    sending.on("timeout", () => sending.destroy(new Error("it hangs")));
    sending.on("error", () => {});
    sending.on("close", resolve);
    sending.end();
  });
  seen.endedMs = performance.now();
  return seen;
}

function read(
  response: IncomingMessage,
  { seen, isLeft, whole }: { seen: SeenCall; isLeft: boolean; whole: () => void },
): void {
  const { headers, statusCode = 0 } = response;
  seen.status = statusCode;
  // Of what the gateway answers itself only errors come here, which have none.
  seen.isPassedOn = headers["content-security-policy"] === "sandbox";
  const chunks: Buffer[] = [];
  response.on("error", () => {});
  response.on("data", (chunk: Buffer) => {
    if (isLeft && seen.isPassedOn) {
      response.destroy();
    } else if (!seen.isPassedOn) {
      chunks.push(chunk);
    }
  });
  response.on("end", () => {
    seen.isWhole = response.complete;
    if (seen.isWhole && seen.isPassedOn) {
      whole();
    }
    const charged =
      headers["x-callora-charged-nanos"] ?? response.trailers["x-callora-charged-nanos"];
    seen.chargedNanos = typeof charged === "string" ? BigInt(charged) : null;
    seen.reason = seen.isPassedOn ? "" : reasonIn(Buffer.concat(chunks).toString());
  });
}

function reasonIn(text: string): string {
  return /"reason":\s*"([A-Z_]+)"/.exec(text)?.[1] ?? "UNKNOWN";
}

function pickKind(chance: number, only: readonly Kind[]): Kind {
  const sum = only.reduce((total, kind) => total + shares[kind], 0);
  let share = 0;
  const found = only.find((kind) => {
    share += shares[kind] / sum;
    return chance < share;
  });
  return found ?? "plain";
}

/** How calls ended, and how many so. */
export function words(calls: readonly SeenCall[]): string {
  const counts = new Map<string, number>();
  for (const { isWhole, status, reason } of calls) {
    const how = `${isWhole ? "" : "cut "}${status}${reason === "" ? "" : ` ${reason}`}`;
    counts.set(how, (counts.get(how) ?? 0) + 1);
  }
  return [...counts].map(([how, count]) => `${count} x ${how}`).join(", ");
}

function pick<T>(list: readonly T[], index: number): T {
  const item = list[index];
  if (item === undefined) {
    throw new Error("Cannot call: there is nothing of that index");
  }
  return item;
}
