import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { AnalyticsService } from "../../../gen/callora/analytics/v1/analytics_service_pb.ts";
import { type Balance, CreditService } from "../../../gen/callora/credits/v1/credit_service_pb.ts";
import {
  MeteringService,
  type UsageEventSchema,
} from "../../../gen/callora/metering/v1/metering_service_pb.ts";
import type { Clients } from "./clients.ts";
import type { Person } from "./market.ts";
import { expectSame, present } from "./report.ts";
import { waitFor } from "./wait.ts";

const applyWait = { timeoutMs: 15_000, intervalMs: 100 };
const dayMs = 24 * 60 * 60 * 1000;

/** Usage that did not pass through the gateway. */
export interface RecordedUsage {
  source: string;
  accountId: string;
  apiId: string;
  count: number;
}

/**
 * Record events over gRPC; then the first one again, with the same body and with another one.
 * Returns the position in the journal of the last.
 */
export async function recordUsage(
  { grpc }: Clients,
  admin: Person,
  { source, accountId, apiId, count, time }: RecordedUsage & { time: Date },
): Promise<bigint> {
  const event = (index: number, endpoint: string): MessageInitShape<typeof UsageEventSchema> => ({
    source,
    id: String(index),
    accountId,
    apiId,
    time: timestampFromMs(time.getTime()),
    endpoint,
  });
  const batches = [
    Array.from({ length: count }, (_, index) => event(index, "batch import")),
    [event(0, "batch import")],
    [event(0, "another body")],
  ];
  let position = 0n;
  for (const events of batches) {
    const { recordUsage: method } = MeteringService.method;
    ({ position } = await grpc(method, admin.token, { events }));
  }
  return position;
}

/**
 * Wait until all that is durable now, and the position, is applied. Returns how far the journal is
 * applied.
 */
export async function waitApplied(
  { grpc }: Clients,
  person: Person,
  position: bigint,
): Promise<bigint> {
  const { getWatermark } = MeteringService.method;
  const { durablePosition } = await grpc(getWatermark, person.token, {});
  const target = durablePosition > position ? durablePosition : position;
  return waitFor(
    `the watermark at ${target}`,
    async () => {
      const { appliedPosition } = await grpc(getWatermark, person.token, {});
      const seen = `${appliedPosition}`;
      return appliedPosition >= target ? { value: appliedPosition } : { seen };
    },
    applyWait,
  );
}

/** Compare the event that came three times: it counts once, and both others are known. */
export async function checkRepeats(
  { grpc }: Clients,
  person: Person,
  { source, callNanos }: { source: string; callNanos: bigint },
): Promise<void> {
  const request = { source, id: "0" };
  const { event } = await grpc(MeteringService.method.getEvent, person.token, request);
  const { chargedNanos, duplicates, conflicts } = present("the event", event);
  const got = { chargedNanos, duplicates, conflicts, endpoint: event?.event?.endpoint };
  const expected = {
    chargedNanos: callNanos,
    duplicates: 1,
    conflicts: 1,
    endpoint: "batch import",
  };
  expectSame("the event that came three times", got, expected);
}

/** Compare what analytics show a consumer with the calls that were made. */
export async function checkUsage(
  { connect }: Clients,
  consumer: Person,
  expected: { calls: number; errors: number; chargedNanos: bigint },
): Promise<void> {
  const { calls, errors, chargedNanos } = await connect(AnalyticsService, consumer.token).getUsage(
    {},
  );
  expectSame(`the usage of ${consumer.username}`, { calls, errors, chargedNanos }, expected);
}

/** Compare what analytics show the developer with the calls that were made. */
export async function checkRevenue(
  { connect }: Clients,
  developer: Person,
  { apiId, calls, revenue, now }: { apiId: string; calls: number; revenue: bigint; now: Date },
): Promise<void> {
  const day = (offset: number) =>
    new Date(now.getTime() + offset * dayMs).toISOString().slice(0, 10);
  const { data } = await connect(AnalyticsService, developer.token).getDeveloperAnalytics({
    apiId,
    from: day(-1),
    to: day(1),
  });
  const got = {
    calls: data.reduce((sum, period) => sum + period.calls, 0),
    revenue: data.reduce((sum, period) => sum + period.revenue, 0n),
  };
  expectSame("the developer's analytics", got, { calls, revenue });
}

/** A consumer's balance, which must account for every unit that was granted. */
export async function readBalance({ grpc }: Clients, consumer: Person): Promise<Balance> {
  const reply = await grpc(CreditService.method.getBalance, consumer.token, {});
  const balance = present("the balance", reply.balance);
  expectSame(
    `available + reserved + charged of ${consumer.username}`,
    balance.availableNanos + balance.reservedNanos + balance.chargedNanos,
    balance.grantedNanos,
  );
  return balance;
}
