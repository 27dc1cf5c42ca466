import { openDatabase } from "../../src/server.ts";
import { openProving, type Proving, type Supervised, untilApplied } from "./faults.ts";
import { answer, type SeenCall } from "./gateway-load.ts";
import { type GatewayMarket, type MarketPlace, newConsumer, sellApi } from "./gateway-market.ts";
import { type GatewayVerdict, judgeGateway } from "./gateway-oracle.ts";
import { grant } from "./grant.ts";
import { startUpstream } from "./upstream.ts";

/** Servers on one durable PostgreSQL, and a developers' server that they call. */
export interface GatewayProving extends AsyncDisposable {
  readonly proving: Proving;
  readonly servers: readonly Supervised[];
  readonly urls: readonly string[];
  readonly place: MarketPlace;
  readonly upstreamUrl: string;
  /** Give a consumer more credit. */
  grant(accountId: string, nanos: bigint): Promise<void>;
  /** Wait until all is applied and every lease closed, and judge; as if `tampering`, a statement, had been run before. */
  judge(
    seen: { market: GatewayMarket; calls: readonly SeenCall[]; lostMax?: number },
    tampering?: string,
  ): Promise<GatewayVerdict>;
}

/** How long leases may take to be closed once nobody calls: 15 s of one whose process died, and what follows. */
const closedMsMax = 60_000;

/** Open servers. Each has the environment of its index. */
export async function openGatewayProving({
  environments = [{}, {}, {}],
  handler = answer,
}: {
  environments?: readonly Readonly<Record<string, string>>[];
  handler?: typeof answer;
} = {}): Promise<GatewayProving> {
  await using stack = new AsyncDisposableStack();
  const proving = stack.use(await openProving());
  const { urls } = proving;
  const upstream = stack.use(await startUpstream(handler));
  const servers = await Promise.all(environments.map((env) => proving.serve(urls, env)));
  const db = await openDatabase(urls);
  stack.defer(() => db.close());
  const held = stack.move();
  return {
    proving,
    servers,
    urls: servers.map(({ url }) => url),
    place: { db, url: servers[0]?.url ?? "", urls },
    upstreamUrl: upstream.url,
    grant: (accountId, nanos) => grant(db, accountId, nanos),
    async judge({ market, calls, lostMax = 0 }, tampering = "") {
      await proving.superuser(async (client) => {
        await untilApplied(client);
        const deadline = performance.now() + closedMsMax;
        const countOpen = () =>
          client.query("select id from credit_leases where state <> 'closed' limit 1");
        while ((await countOpen()).rowCount !== 0 && performance.now() < deadline) {
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
        await untilApplied(client);
      });
      return proving.superuser(async (client) => {
        await client.query(`begin; set local session_replication_role = replica; ${tampering}`);
        const verdict = await judgeGateway(client, { market, calls, lostMax });
        await client.query("rollback");
        return verdict;
      });
    },
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}

/** What a call costs of the first API of a common market, in nano-USDC. */
export const commonNanos = 333_337n;

/**
 * Consumers that are rich, poor, bound by a budget and asynchronous, and the APIs that they call: by the call, by the
 * unit, and one whose replies do not wait.
 */
export async function openCommonMarket({
  place,
  upstreamUrl,
}: Pick<GatewayProving, "place" | "upstreamUrl">): Promise<GatewayMarket> {
  const plenty = 10_000_000_000n;
  const apis = await Promise.all([
    sellApi(place, upstreamUrl, { callNanos: commonNanos }),
    sellApi(place, upstreamUrl, { callNanos: 5n, unitNanos: 10_007n }),
    sellApi(place, upstreamUrl, { callNanos: 77_777n, isAsync: true }),
  ]);
  const durable = [0, 1];
  const consumers = await Promise.all([
    newConsumer(place, { creditNanos: plenty, apis: durable }),
    newConsumer(place, { creditNanos: 60n * commonNanos, apis: durable }),
    newConsumer(place, { creditNanos: plenty, apis: durable, budgetNanos: plenty / 2n }),
    newConsumer(place, { creditNanos: plenty, apis: [2] }),
  ]);
  return { apis, consumers };
}

/** Consumers of a common market: one with plenty, one with little, one whose calls' replies do not wait. */
export const [rich, poor, asynchronous] = [0, 1, 3] as const;
