import { create, toJsonString } from "@bufbuild/protobuf";
import {
  RecordUsageResponseSchema,
  UsageEventSchema,
} from "../gen/callora/metering/v1/metering_service_pb.ts";
import { Access, RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { sendReply } from "./edge/http-message.ts";
import type { Mount } from "./edge/mount.ts";
import { readBody } from "./edge/read-body.ts";
import { splitTarget } from "./edge/rest/path.ts";
import { attributeOf, type ReadEvent } from "./metering/cloud-event-attributes.ts";
import { readCloudEvents } from "./metering/cloud-events.ts";
import { type Candidate, type DoorDeps, recordEvents } from "./metering/door.ts";
import { invalidArgument } from "./rpc/errors.ts";

const bodyBytesMax = 1024 * 1024;

/** Takes usage events in the HTTP protocol binding of CloudEvents 1.0, and answers what RecordUsage answers. */
export function usageMount(deps: DoorDeps): Mount {
  return {
    method: "POST",
    pattern: "/v1/events",
    policy: {
      access: Access.SERVICE,
      auditAction: "",
      rateClass: RateClass.INTERNAL,
      successStatus: 202,
      scope: "usage.record",
    },
    async handler(request, _response, { call, arrival }) {
      const options = readOptions(splitTarget(arrival.url).query);
      const body = await readBody(arrival, { bytesMax: bodyBytesMax });
      const events = await readCloudEvents({ headers: headersOf(request.rawHeaders), body });
      const answer = await recordEvents(deps, events.map(toCandidate), {
        ...options,
        // A sender of CloudEvents knows no fields, but attributes.
        names: attributeOf,
        context: call,
      });
      const message = create(RecordUsageResponseSchema, answer);
      sendReply(arrival, {
        status: 202,
        headers: { "content-type": "application/json" },
        body: toJsonString(RecordUsageResponseSchema, message, { alwaysEmitImplicit: true }),
      });
    },
  };
}

/** Node joins those of one name; two ids must not become a third. */
function headersOf(raw: readonly string[]): (readonly [string, string])[] {
  return raw.flatMap((name, at) =>
    at % 2 === 0 ? [[name.toLowerCase(), raw[at + 1] ?? ""] as const] : [],
  );
}

function toCandidate(read: ReadEvent): Candidate {
  return "event" in read ? { event: create(UsageEventSchema, read.event) } : read;
}

const waitMsMax = 10_000;

/** `partial` and `wait` of RecordUsage, from the query. Throws INVALID_ARGUMENT. */
function readOptions(query: string): { partial: boolean; waitMs: number } {
  const parameters = new URLSearchParams(query);
  const partial = parameters.get("partial") ?? "false";
  const wait = parameters.get("wait") ?? "0s";
  const seconds = /^(\d{1,2}(?:\.\d{1,9})?)s$/.exec(wait)?.[1];
  const waitMs = seconds === undefined ? Number.NaN : Math.ceil(Number(seconds) * 1_000);
  if (partial !== "true" && partial !== "false") {
    throw invalidArgument([{ field: "partial", description: "must be true or false" }]);
  }
  if (!(waitMs <= waitMsMax)) {
    const description = `must be up to ${waitMsMax / 1_000} seconds, for example 2s`;
    throw invalidArgument([{ field: "wait", description }]);
  }
  return { partial: partial === "true", waitMs };
}
