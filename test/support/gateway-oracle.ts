import type pg from "pg";
import { decodeRow } from "../../src/metering/codec.ts";
import { hangMs, priceOf, type SeenCall, words } from "./gateway-load.ts";
import type { Consumer, GatewayMarket, SoldApi } from "./gateway-market.ts";
import { readSums } from "./load-oracle.ts";

/** What is in the database, held against what consumers saw. */
export interface GatewayVerdict {
  /** What is wrong, one sentence each. Empty: all that was served was charged once, and all money is where it belongs. */
  problems: string[];
  /** Replies that were served whole. */
  served: number;
  /** Of these, of APIs whose replies do not wait: not charged. */
  lost: number;
  /** Calls that were charged though their consumers had no whole reply, besides those that left. */
  chargedUnserved: SeenCall[];
  chargedNanos: bigint;
}

const problemsMax = 20;

interface Event {
  accountId: string;
  chargedNanos: bigint;
}

/**
 * Judge a database whose journal is applied to its end, and whose leases are closed.
 *
 * What consumers spent is looked at by consumer: what leases moved is in the same sums.
 */
export async function judgeGateway(
  client: pg.Client,
  {
    market,
    calls,
    lostMax,
  }: { market: GatewayMarket; calls: readonly SeenCall[]; lostMax: number },
): Promise<GatewayVerdict> {
  const events = await readEvents(client);
  const problems: string[] = [];
  const chargedUnserved: SeenCall[] = [];
  let [served, lost] = [0, 0];
  const known = new Set(calls.map(({ id }) => id));
  for (const id of events.keys()) {
    if (!known.has(id)) {
      problems.push(`call ${id} has an event, and was never made`);
    }
  }
  for (const call of calls) {
    const own = events.get(call.id) ?? [];
    const api = market.apis[call.api] as SoldApi;
    problems.push(...findFaults(call, { api, own }));
    const isServed = call.isWhole && call.isPassedOn;
    served += isServed ? 1 : 0;
    if (isServed && own.length === 0) {
      lost += 1;
      if (!api.isAsync) {
        problems.push(`call ${call.id} was served, and nobody paid: ${shownOf(call)}`);
      }
    }
    if (!isServed && call.kind !== "left" && own.some((event) => event.chargedNanos > 0n)) {
      chargedUnserved.push(call);
    }
  }
  if (lost > lostMax) {
    problems.push(`${lost} replies are not paid, more than ${lostMax}`);
  }
  const { "spent and owed by consumers": _, ...sums } = await readSums(client);
  for (const [name, sum] of Object.entries(sums)) {
    if (sum !== sums.events) {
      problems.push(`${name} is ${sum}, but the events cost ${sums.events}`);
    }
  }
  problems.push(...(await findBadBalances(client, market)), ...(await findOpenLeases(client)));
  return {
    problems: problems.slice(0, problemsMax),
    served,
    lost,
    chargedUnserved,
    chargedNanos: sums.events ?? 0n,
  };
}

/** What is wrong with one call, of which these are the events. */
function findFaults(
  call: SeenCall,
  { api, own }: { api: SoldApi; own: readonly Event[] },
): string[] {
  const shown = shownOf(call);
  const charged = own.reduce((sum, event) => sum + event.chargedNanos, 0n);
  const price = priceOf(api, call.n);
  const problems: string[] = [];
  if (own.length > 1) {
    problems.push(`a call has ${own.length} events: ${shown}`);
  }
  if (call.endedMs - call.begunMs > hangMs - 1_000) {
    problems.push(`a call hung: ${shown}`);
  }
  if (call.kind === "dies" && (charged > 0n || (call.isWhole && call.isPassedOn))) {
    problems.push(`a reply that broke off counts for whole, or is charged ${charged}: ${shown}`);
  }
  if (call.isWhole && call.isPassedOn && own.length > 0) {
    const wanted = call.status >= 500 ? 0n : price;
    if (charged !== wanted || (call.chargedNanos ?? charged) !== charged) {
      problems.push(`a call is charged ${charged} instead of ${wanted}: ${shown}`);
    }
  }
  if (call.isWhole && !call.isPassedOn && (call.chargedNanos ?? charged) !== charged) {
    problems.push(`a call is charged ${charged}, but its error says otherwise: ${shown}`);
  }
  if (charged > price) {
    problems.push(`a call is charged ${charged}, more than ${price}: ${shown}`);
  }
  return problems;
}

function shownOf(call: SeenCall): string {
  return JSON.stringify({ ...call, chargedNanos: String(call.chargedNanos) });
}

/** The charged events of an account, by the request ids of their calls. */
export async function readCharged(
  client: pg.Client,
  accountId: string,
): Promise<Map<string, number>> {
  const events = await readEvents(client);
  const charged = new Map<string, number>();
  for (const [requestId, own] of events) {
    const count = own.filter((one) => one.accountId === accountId && one.chargedNanos > 0n).length;
    if (count > 0) {
      charged.set(requestId, count);
    }
  }
  return charged;
}

/** The events of each call, by its request id. The journal has each once, or more often when its commit was in doubt. */
async function readEvents(client: pg.Client): Promise<Map<string, Event[]>> {
  const { rows: applied } = await client.query<Record<"account_id" | "id" | "charged", string>>(
    "select account_id, id, charged_nanos::text as charged from usage_events where source = 'gateway'",
  );
  const byId = new Map(
    applied.map(({ account_id: accountId, id, charged }) => [
      `${accountId} ${id}`,
      { accountId, chargedNanos: BigInt(charged) },
    ]),
  );
  const { rows } = await client.query<{ codec: number; body: Buffer }>(
    "select codec, body from usage_journal order by position",
  );
  const named = new Map<string, Set<string>>();
  for (const row of rows) {
    for (const entry of decodeRow(row).entries) {
      if ("requestId" in entry && entry.requestId !== "") {
        const ids = named.get(entry.requestId) ?? new Set();
        named.set(entry.requestId, ids.add(`${entry.account} ${entry.id}`));
      }
    }
  }
  return new Map(
    [...named].map(([requestId, ids]) => [requestId, [...ids].flatMap((id) => byId.get(id) ?? [])]),
  );
}

interface Balance {
  account_id: string;
  held: string;
  escrow: string;
  owed: string;
  granted: string;
  charged: string;
  taken: string | null;
}

async function findBadBalances(client: pg.Client, market: GatewayMarket): Promise<string[]> {
  const { rows } = await client.query<Balance>(balances, [
    market.consumers.map(({ accountId }) => accountId),
  ]);
  const byId = new Map(rows.map((row) => [row.account_id, row]));
  return market.consumers.flatMap((consumer, index) =>
    wrongIn(market, { consumer, index, row: byId.get(consumer.accountId) }),
  );
}

function wrongIn(
  { apis }: GatewayMarket,
  { consumer, index, row }: { consumer: Consumer; index: number; row: Balance | undefined },
): string[] {
  if (row === undefined) {
    return [`consumer ${index} has no balance`];
  }
  const shown = `of consumer ${index}: ${JSON.stringify(row)}`;
  const owed = BigInt(row.owed);
  const isAsync = consumer.apis.some((api) => apis[api]?.isAsync === true);
  return [
    BigInt(row.held) < 0n ? `a balance is below zero, ${shown}` : "",
    BigInt(row.escrow) !== 0n ? `credit is still set aside, ${shown}` : "",
    !isAsync && owed !== 0n ? `more was spent than there was, ${shown}` : "",
    BigInt(row.held) - owed !== BigInt(row.granted) - BigInt(row.charged)
      ? `what is left is not what was granted less what was charged, ${shown}`
      : "",
    row.taken !== null && row.taken !== row.charged
      ? `what the budget counts is not what was charged, ${shown}`
      : "",
  ].filter((text) => text !== "");
}

const balances = `
  select account_id,
    coalesce(sum(credits_nanos - debits_nanos) filter (where kind = 'consumer'), 0)::text as held,
    coalesce(sum(credits_nanos - debits_nanos) filter (where kind = 'lease_escrow'), 0)::text as escrow,
    coalesce(sum(debits_nanos - credits_nanos) filter (where kind = 'consumer_receivable'), 0)::text as owed,
    (select coalesce(sum(amount_nanos), 0)::text from credit_grants where account_id = account) as granted,
    (select coalesce(sum(charged_nanos), 0)::text from usage_events where account_id = account) as charged,
    (select sum(taken_nanos)::text from budget_periods where account_id = account) as taken
  from unnest($1::text[]) as account
  join ledger_accounts on account_id = account and mode = 'live'
  group by account_id, account
`;

async function findOpenLeases(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query(
    "select id, state from credit_leases where state <> 'closed'",
  );
  return rows.map(({ id, state }) => `lease ${id} is still ${state}`);
}

/** What a run of faults showed, for people. */
export function tellVerdict(
  { served, lost, chargedUnserved, chargedNanos, problems }: GatewayVerdict,
  calls: readonly SeenCall[],
): string {
  return [
    `${calls.length} calls: ${words(calls)}`,
    `${served} served whole, ${chargedNanos} nanos charged everywhere, ${problems.length} problems`,
    `${lost} replies of asynchronous APIs lost their event, ` +
      `${chargedUnserved.length} calls were charged and broken off (${words(chargedUnserved)})`,
  ].join("\n");
}
