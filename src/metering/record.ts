import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type {
  MeteringService,
  StreamUsageRequest,
  StreamUsageResponseSchema,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";
import {
  type Candidate,
  type DoorDeps,
  readApplied,
  recordEvents,
  type Taken,
  takeEvents,
} from "./door.ts";

/** What recording needs. */
export type RecordDeps = DoorDeps;

/** The handlers that record usage. */
export function recordMethods(
  deps: RecordDeps,
): Pick<ServiceImpl<typeof MeteringService>, "recordUsage" | "streamUsage"> {
  return {
    recordUsage({ events, partial, waitForProjection }, context) {
      const candidates = events.map((event) => ({ event }));
      return recordEvents(deps, candidates, { partial, waitMs: toMs(waitForProjection), context });
    },

    streamUsage: (messages) => recordStream(deps, messages),
  };
}

function toMs(wait: Duration | undefined): number {
  return wait === undefined ? 0 : Math.ceil(durationMs(wait));
}

/** Messages of a stream that are on their way into the journal. The sender waits when there are more. */
const inFlightMax = 4;

/** Refusals of a stream that are told. */
const refusalsMax = 100;

async function recordStream(
  deps: DoorDeps,
  messages: AsyncIterable<StreamUsageRequest>,
): Promise<MessageInitShape<typeof StreamUsageResponseSchema>> {
  const total = createTotal();
  const inFlight: Promise<void>[] = [];
  try {
    for await (const { events, partial } of messages) {
      const candidates: Candidate[] = events.map((event) => ({ event }));
      inFlight.push(takeEvents(deps, candidates, { partial }).then(total.expect(events.length)));
      // Its failure is heard where it is awaited, in the order of the stream.
      inFlight.at(-1)?.catch(() => {});
      if (inFlight.length > inFlightMax) {
        await inFlight.shift();
      }
    }
    await Promise.all(inFlight);
  } finally {
    // Nothing of the stream is written after its answer.
    await Promise.allSettled(inFlight);
  }
  return { ...total.answer(), watermark: await readApplied(deps) };
}

/** Adds up what was taken of a stream. */
function createTotal() {
  const refusals: { index: bigint; violations: { field: string; description: string }[] }[] = [];
  let count = 0;
  let accepted = 0;
  let rejected = 0;
  let position = 0n;

  function add(first: number, { entries, receipt, violations }: Taken) {
    accepted += entries.length;
    position = receipt.position > position ? receipt.position : position;
    for (const [index, own] of violations.entries()) {
      if (own.length > 0) {
        rejected += 1;
        refusals.push({ index: BigInt(first + index), violations: own.slice() });
      }
    }
    // Messages may end in another order than they came.
    refusals.sort((a, b) => Number(a.index - b.index));
    refusals.splice(refusalsMax);
  }

  return {
    /** What to do with the next events of the stream once they are taken. */
    expect(events: number) {
      const first = count;
      count += events;
      return (taken: Taken) => add(first, taken);
    },
    answer: () => ({
      accepted: BigInt(accepted),
      rejected: BigInt(rejected),
      refusals,
      position,
    }),
  };
}
