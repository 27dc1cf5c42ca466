import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import type { Figure } from "../figure.ts";
import type { CallTarget } from "./load.ts";
import type { Consumer, GatewayProcess, GatewayWorld } from "./world.ts";

/** What the consumer can pay, and how many calls it makes at once. */
const paidCalls = 333;
const callsAtOnce = 5_000;
/** The process is killed once so many calls have had their whole reply. */
const killAfter = 111;
/** What a killed process had leased is back after this. */
const waitMsMax = 60_000;

/** How calls ended. */
interface Tally {
  /** With the upstream's whole reply. */
  whole: number;
  /** Broken off, or never taken, by the process that was killed. */
  cut: number;
  refused: number;
}

/**
 * How many calls are served of a consumer who can pay 333 and makes 5,000 at once over three processes, one of which
 * is killed midway.
 *
 * A call is served when its event is durable, and so charged, and its reply was sent only after that. Of one that was
 * cut with the killed process nobody but the journal knows which side of its commit it was on: if the event is there,
 * the call counts as served, its credit is spent, and its consumer did not have the reply; if not, it was free.
 */
export async function measureExact(world: GatewayWorld): Promise<Figure[]> {
  const servers: GatewayProcess[] = [];
  await using stack = new AsyncDisposableStack();
  for (let count = 0; count < 3; count++) {
    servers.push(stack.use(await world.startServer()));
  }
  const [first, second, third] = servers;
  if (first === undefined || second === undefined || third === undefined) {
    throw new Error("Cannot measure: there are not three servers");
  }
  const consumer = await world.makeConsumer(first, BigInt(paidCalls));
  const targets = servers.map((server) => world.target(server, "durable", consumer));
  const tally: Tally = { whole: 0, cut: 0, refused: 0 };
  await callAtOnce(targets, tally, () => third.kill());
  await spendTheRest(world, { targets: targets.slice(0, 2), consumer, tally });
  await world.untilApplied();
  return figures(tally, await countCharged(world.client, consumer));
}

/** Make all calls at once, and kill a process once some have had their reply. */
async function callAtOnce(
  targets: readonly CallTarget[],
  tally: Tally,
  kill: () => Promise<void>,
): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: callsAtOnce });
  let killed: Promise<void> | undefined;
  const all = Array.from({ length: callsAtOnce }, async (_none, index) => {
    const target = targets[index % targets.length];
    if (target !== undefined) {
      await count(target, agent, tally);
    }
    if (tally.whole >= killAfter) {
      killed ??= kill();
    }
  });
  await Promise.all(all);
  await (killed ?? kill());
  agent.destroy();
}

/** Call until nothing is left: what was leased to the killed process comes back only when its lease is over. */
async function spendTheRest(
  { client }: GatewayWorld,
  {
    targets,
    consumer,
    tally,
  }: { targets: readonly CallTarget[]; consumer: Consumer; tally: Tally },
): Promise<void> {
  const agent = new Agent({ keepAlive: true });
  const endMs = performance.now() + waitMsMax;
  while ((await readHeld(client, consumer)) > 0n) {
    if (performance.now() > endMs) {
      throw new Error("Cannot measure: credit is left that nobody can spend");
    }
    await Promise.all(targets.map((target) => count(target, agent, tally)));
    await sleep(50);
  }
  agent.destroy();
}

function count({ url, secret }: CallTarget, agent: Agent, tally: Tally): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const end = (as: keyof Tally) => {
    tally[as] += 1;
    resolve();
  };
  const sent = request(url, { agent, headers: { "x-api-key": secret } }, (response) => {
    response.resume();
    response.on("error", () => {});
    response.on("close", () => {
      const isWhole = response.complete && response.statusCode === 200;
      end(isWhole ? "whole" : response.complete ? "refused" : "cut");
    });
  });
  sent.on("error", () => end("cut"));
  sent.end();
  return promise;
}

/** What the consumer has, with what is leased. */
async function readHeld(client: pg.Client, { accountId }: Consumer): Promise<bigint> {
  const { rows } = await client.query(
    `select coalesce(sum(credits_nanos - debits_nanos), 0)::text as held from ledger_accounts
     where account_id = $1 and mode = 'live' and kind in ('consumer', 'lease_escrow')`,
    [accountId],
  );
  return BigInt(rows[0].held);
}

async function countCharged(client: pg.Client, { accountId }: Consumer): Promise<number> {
  const { rows } = await client.query(
    "select count(*)::int as charged from usage_events where account_id = $1 and charged_nanos > 0",
    [accountId],
  );
  return rows[0].charged;
}

function figures({ whole, cut, refused }: Tally, charged: number): Figure[] {
  const name = `calls served of a credit for ${paidCalls}: ${callsAtOnce} at once, 3 processes, 1 killed`;
  const figure = { name, value: charged, unit: "calls", peer: "credit", peerValue: paidCalls };
  return [
    { ...figure, bar: { of: "value", limit: "at least", at: paidCalls }, n: callsAtOnce },
    { ...figure, bar: { of: "value", limit: "at most", at: paidCalls }, n: callsAtOnce },
    {
      name: "of these, replies that were not whole: cut with the killed process",
      value: charged - whole,
      unit: "calls",
      peer: `calls that it cut, charged or not; ${refused} were refused`,
      peerValue: cut,
      n: callsAtOnce,
    },
  ];
}
