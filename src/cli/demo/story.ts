import type { Api } from "../../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { KeyState } from "../../../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../../../gen/callora/keys/v1/key_service_pb.ts";
import { usdcText } from "../../lib/money.ts";
import { checkAudit } from "./audit.ts";
import { type CallPlan, callGateway, makeCalls } from "./calls.ts";
import type { Clients } from "./clients.ts";
import {
  type Consumer,
  createKey,
  createPerson,
  grantCredit,
  type Person,
  publishApi,
} from "./market.ts";
import {
  checkPayout,
  getNetwork,
  listChainPayments,
  openStellarAccount,
  setPayoutAddress,
  settle,
  waitPaid,
} from "./payout.ts";
import { expectSame, Mismatch, present, type Report } from "./report.ts";
import type { DemoSums } from "./sums.ts";
import { quotePath, type Upstream } from "./upstream.ts";
import {
  checkRepeats,
  checkRevenue,
  checkUsage,
  readBalance,
  recordUsage,
  waitApplied,
} from "./usage.ts";

/** What the story is told with. */
export interface Stage {
  report: Report;
  clients: Clients;
  upstream: Upstream;
  admin: Person;
  /** Makes names unique on the server. */
  run: string;
  now: () => Date;
}

/** What the consumers and the developer have. */
interface Market {
  developer: Person;
  api: Api;
  consumers: Consumer[];
}

/** Not a whole number of stroops, so that every rounding shows. */
const callNanos = 1_234_567n;
const recordedCount = 3;

/**
 * The 200 calls. No key makes more than its 100 a minute; the last consumer has credit for exactly
 * the calls that are to be answered.
 */
const plans: readonly Omit<CallPlan, "secret">[] = [
  { answered: 80, broken: 10, refused: 0 },
  { answered: 70, broken: 10, refused: 0 },
  { answered: 25, broken: 0, refused: 5 },
];
const granted: readonly bigint[] = [200n, 100n, 25n];

/**
 * Do the main job of the platform once, and return what it moved. Throws StepError at the first
 * wrong answer.
 */
export async function tellStory(stage: Stage): Promise<DemoSums> {
  const market = await openMarket(stage);
  await callApi(stage, market);
  await revokeKey(stage, market);
  await recordMore(stage, market);
  const debitsNanos = await compareUsage(stage, market);
  const paid = await payDeveloper(stage, market);
  return {
    pricedNanos: BigInt(total("answered") + recordedCount) * callNanos,
    debitsNanos,
    feeBasisPoints: market.api.price?.feeBasisPoints ?? 0,
    ...paid,
  };
}

async function openMarket(stage: Stage): Promise<Market> {
  const { report, clients, admin, run, upstream } = stage;
  const people = await report.step(
    "The admin makes a developer and three consumers, who sign in (Connect)",
    async () => {
      const made: Person[] = [];
      for (const [name, role] of roles) {
        made.push(await createPerson(clients, admin, { username: `${name}-${run}`, role }));
      }
      return made;
    },
    (made) => made.map(({ username }) => username).join(", "),
  );
  const developer = present("the developer", people[0]);
  const api = await report.step(
    "The developer drafts, prices and publishes an API (Connect)",
    () =>
      publishApi(clients, developer, {
        slug: `quotes-${run}`,
        upstreamUrl: upstream.url,
        callNanos,
      }),
    ({ id, slug, price }) => `${slug} ${id}, ${price?.callNanos} nano-USDC a call`,
  );
  const consumers = await report.step(
    "The consumers make keys (gRPC)",
    async () => {
      const made: Consumer[] = [];
      for (const person of people.slice(1)) {
        made.push(await createKey(clients, person, api.id));
      }
      return made;
    },
    (made) => made.map(({ keyId }) => keyId).join(", "),
  );
  await report.step(
    "The admin grants credit (REST)",
    async () => {
      for (const [index, { accountId }] of consumers.entries()) {
        const amountNanos = (granted[index] ?? 0n) * callNanos;
        await grantCredit(clients, admin, { accountId, amountNanos });
      }
    },
    () => `for ${granted.join(", ")} calls`,
  );
  return { developer, api, consumers };
}

const roles = [
  ["dev", "DEVELOPER"],
  ["ada", "USER"],
  ["bob", "USER"],
  ["cyd", "USER"],
] as const;

async function callApi(stage: Stage, { api, consumers }: Market): Promise<void> {
  const { report, clients, upstream } = stage;
  const gateway = { clients, slug: api.slug };
  await report.step(
    "The consumers call through the gateway (fetch)",
    async () => {
      const whole = plans.map((plan, index) => ({ ...plan, secret: secretOf(consumers[index]) }));
      const begun = performance.now();
      await makeCalls(gateway, whole, callNanos);
      const seconds = (performance.now() - begun) / 1000;
      const passed = total("answered") + total("broken");
      expectSame("calls that reached the upstream", upstream.requests(), passed);
      const count = passed + total("refused");
      return { count, perSecond: Math.round(count / seconds) };
    },
    ({ count, perSecond }) =>
      `${count} calls, ${perSecond} a second: ${total("answered")} answered and charged, ` +
      `${total("broken")} failed upstream and free, ${total("refused")} refused with ` +
      "402 CREDIT_EXHAUSTED",
  );
}

async function revokeKey(stage: Stage, { api, consumers }: Market): Promise<void> {
  const { report, clients, upstream } = stage;
  const consumer = present("the second consumer", consumers[1]);
  await report.step(
    "A key is revoked (Connect) and used at once (fetch)",
    async () => {
      const before = upstream.requests();
      const keys = clients.connect(KeyService, consumer.token);
      const { key } = await keys.revokeKey({ keyId: consumer.keyId });
      expectSame("the key's state", key?.state, KeyState.REVOKED);
      const begun = performance.now();
      const gateway = { clients, slug: api.slug };
      const reply = await callGateway(gateway, { secret: consumer.secret, path: quotePath });
      if (reply.status !== 401 && reply.status !== 403) {
        throw new Mismatch("the reply", { expected: "401 or 403", got: String(reply.status) });
      }
      expectSame("calls that reached the upstream since", upstream.requests() - before, 0);
      return { ...reply, ms: Math.round(performance.now() - begun) };
    },
    ({ status, reason, ms }) => `answered ${status} ${reason} ${ms} ms later`,
  );
}

async function recordMore(stage: Stage, { developer, api, consumers }: Market): Promise<void> {
  const { report, clients, admin, run, now } = stage;
  const consumer = present("the first consumer", consumers[0]);
  const usage = { source: `urn:demo:${run}`, accountId: consumer.accountId, apiId: api.id };
  const position = await report.step(
    "Usage is recorded (gRPC)",
    () => recordUsage(clients, admin, { ...usage, count: recordedCount, time: now() }),
    (last) =>
      `${recordedCount} events, one of them again, and again with another body; position ${last}`,
  );
  await report.step(
    "The journal is applied (gRPC)",
    () => waitApplied(clients, developer, position),
    (watermark) => `watermark ${watermark}`,
  );
  await report.step(
    "The event that came three times counts once (gRPC)",
    () => checkRepeats(clients, consumer, { source: usage.source, callNanos }),
    () => `charged ${callNanos}, 1 duplicate, 1 conflict kept and not charged`,
  );
}

/** Compare analytics and balances with the calls. Returns what the consumers were charged. */
async function compareUsage(stage: Stage, { developer, api, consumers }: Market): Promise<bigint> {
  const { report, clients, now } = stage;
  const calls = total("answered") + total("broken") + recordedCount;
  const revenue = BigInt(total("answered") + recordedCount) * callNanos;
  await report.step(
    "Analytics show the calls to each consumer and to the developer (Connect)",
    async () => {
      for (const [index, consumer] of consumers.entries()) {
        const { answered, broken } = present("the plan", plans[index]);
        const charged = answered + (index === 0 ? recordedCount : 0);
        await checkUsage(clients, consumer, {
          calls: charged + broken,
          errors: broken,
          chargedNanos: BigInt(charged) * callNanos,
        });
      }
      await checkRevenue(clients, developer, { apiId: api.id, calls, revenue, now: now() });
    },
    () => `${calls} calls, ${total("broken")} errors, revenue ${revenue} nano-USDC`,
  );
  const balances = await report.step(
    "Balances account for every unit (gRPC)",
    async () => {
      const read = await Promise.all(consumers.map((consumer) => readBalance(clients, consumer)));
      const spent = present("the third balance", read[2]);
      const left = spent.availableNanos + spent.reservedNanos;
      expectSame("what the exhausted consumer has left", left, 0n);
      return read;
    },
    (read) => `charged ${read.map(({ chargedNanos }) => chargedNanos).join(" + ")}`,
  );
  return balances.reduce((sum, { chargedNanos }) => sum + chargedNanos, 0n);
}

type Paid = Pick<
  DemoSums,
  "creditsNanos" | "paidNanos" | "chainNanos" | "inFlightNanos" | "payableNanos"
>;

async function payDeveloper(stage: Stage, market: Market): Promise<Paid> {
  const { report, clients, admin } = stage;
  const { developer } = market;
  const network = await getNetwork(clients, developer);
  if (network.network === "public") {
    report.line("- No payout: the network is the public one, and the demo's credit is a gift");
    await checkRecords(stage, market, []);
    return toPaid(await waitPaid(clients, developer), 0n);
  }
  const address = await report.step(
    `The developer opens an account on the ${network.network} network (Stellar SDK, gRPC)`,
    async () => {
      const opened = await openStellarAccount(network);
      await setPayoutAddress(clients, developer, opened);
      return opened;
    },
    (opened) => `${opened} trusts ${network.assetCode} and is where payouts go`,
  );
  const run = await report.step(
    "The admin settles (Connect)",
    () => settle(clients, admin),
    ({ id, payouts }) => `${id} is done, with ${payouts.length} payouts`,
  );
  const earnings = await waitPaid(clients, developer);
  const payments = await report.step(
    "The payment is on the chain (Horizon, Stellar SDK)",
    async () => {
      const found = await listChainPayments(network, address);
      checkPayout(run, developer, found);
      expectSame("payments to the developer", found.length, 1);
      return found;
    },
    (found) =>
      found.map(({ amountNanos, hash }) => `${usdcText(amountNanos)} USDC in ${hash}`).join(", "),
  );
  await checkRecords(stage, market, [
    { person: developer, action: "payout_address.set", resource: address },
    { person: admin, action: "settlement.run", resource: run.id },
  ]);
  return toPaid(
    earnings,
    payments.reduce((sum, { amountNanos }) => sum + amountNanos, 0n),
  );
}

async function checkRecords(
  { report, clients, admin }: Stage,
  { developer, api, consumers }: Market,
  more: { person: Person; action: string; resource: string }[],
): Promise<void> {
  const records = [
    ...["api.create", "api.update", "api.publish"].map((action) => ({
      person: developer,
      action,
      resource: api.id,
    })),
    ...consumers.map((person) => ({ person, action: "api_key.create", resource: person.keyId })),
    ...consumers.slice(1, 2).map((person) => ({
      person,
      action: "api_key.revoke",
      resource: person.keyId,
    })),
    ...[developer, ...consumers].flatMap((person) => [
      { person, action: "user.login", resource: "auth/session" },
      { person: admin, action: "user.create", resource: person.id },
    ]),
    ...consumers.map(({ accountId }) => ({
      person: admin,
      action: "credits.grant",
      resource: accountId,
    })),
    ...more,
  ];
  await report.step(
    "The audit log has every action (REST, gRPC)",
    () => checkAudit(clients, admin, records),
    (count) => `${count} records: ${[...new Set(records.map(({ action }) => action))].join(", ")}`,
  );
}

function toPaid(
  earnings: {
    creditedNanos: bigint;
    paidNanos: bigint;
    inFlightNanos: bigint;
    payableNanos: bigint;
  },
  chainNanos: bigint,
): Paid {
  const { creditedNanos: creditsNanos, paidNanos, inFlightNanos, payableNanos } = earnings;
  return { creditsNanos, paidNanos, chainNanos, inFlightNanos, payableNanos };
}

function total(kind: "answered" | "broken" | "refused"): number {
  return plans.reduce((sum, plan) => sum + plan[kind], 0);
}

function secretOf(consumer: Consumer | undefined): string {
  return present("the consumer", consumer).secret;
}
