import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import {
  MeteringService,
  type UsageEventSchema,
  UsageOutcome,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";

type Event = MessageInitShape<typeof UsageEventSchema>;

/** A way for events into a server. Resolves when all of them are acknowledged; rejects when perhaps none is. */
export type Door = (events: Event[]) => Promise<void>;

const callTimeoutMs = 4_000;

/** All ways into a server. The atomic one is the most usual. */
export function openDoors(url: string, token: string): { atomic: Door; others: Door[] } {
  const authorization = `Bearer ${token}`;
  const transport = createGrpcTransport({
    baseUrl: url,
    defaultTimeoutMs: callTimeoutMs,
    interceptors: [
      (next) => (req) => {
        req.header.set("authorization", authorization);
        return next(req);
      },
    ],
  });
  const client = createClient(MeteringService, transport);

  async function waiting(events: Event[]): Promise<void> {
    const stranger = { ...events[0], accountId: `acc_${"v".repeat(26)}` };
    const request = { partial: true, waitForProjection: { seconds: 1n } };
    const { results } = await client.recordUsage({ ...request, events: [stranger, ...events] });
    const [refused, ...rest] = results.map(({ outcome }) => outcome);
    if (refused !== UsageOutcome.REJECTED || rest.includes(UsageOutcome.REJECTED)) {
      fail(`the outcomes ${results.map(({ outcome }) => outcome)}`);
    }
    if (rest.length !== events.length) {
      fail(`${rest.length} outcomes of ${events.length} events`);
    }
  }

  async function streamed(events: Event[]): Promise<void> {
    async function* messages() {
      for (let at = 0; at < events.length; at += 10) {
        yield { events: events.slice(at, at + 10) };
      }
    }
    const { accepted } = await client.streamUsage(messages());
    if (accepted !== BigInt(events.length)) {
      fail(`${accepted} accepted of a stream of ${events.length}`);
    }
  }

  async function cloudEvents(events: Event[]): Promise<void> {
    const response = await fetch(`${url}/v1/events`, {
      method: "POST",
      headers: { authorization, "content-type": "application/cloudevents-batch+json" },
      body: JSON.stringify(events.map(toCloudEvent)),
      signal: AbortSignal.timeout(callTimeoutMs),
    });
    const answer = await response.text();
    if (response.status >= 400 && response.status < 500) {
      fail(`${response.status} for CloudEvents: ${answer}`);
    }
    if (response.status !== 202) {
      throw new Error(answer);
    }
  }

  return {
    async atomic(events) {
      await client.recordUsage({ events });
    },
    others: [waiting, streamed, cloudEvents],
  };
}

function toCloudEvent(event: Event): Record<string, unknown> {
  const { source, id, accountId, apiId, time, endpoint, statusCode, test } = event;
  return {
    specversion: "1.0",
    type: "load",
    source,
    id,
    subject: accountId,
    apiid: apiId,
    endpoint,
    ...(statusCode === 0 ? {} : { statuscode: statusCode }),
    ...(test ? { testmode: true } : {}),
    ...(time === undefined ? {} : { time: timestampDate(time as never).toISOString() }),
  };
}

/** An answer that no fault excuses ends the process. */
function fail(what: string): never {
  process.stderr.write(`a client got ${what}\n`);
  process.exit(4);
}
