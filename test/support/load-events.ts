import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { UsageEventSchema } from "../../gen/callora/metering/v1/metering_service_pb.ts";

/** Who uses what in a load. */
export interface Market {
  /** The consumers. The last one has little credit. */
  consumers: readonly string[];
  apis: readonly { id: string; callNanos: string }[];
  /** A token of a service that may record usage. */
  token: string;
  /** The time that the events come before. */
  endMs: number;
}

/** An event of a load: everything about it follows from its number and its variant. */
export interface Numbered {
  n: number;
  /** The same number with another variant is a conflict. */
  variant: number;
}

const spanSeconds = 2 * 24 * 60 * 60;

/** The event as it is sent. Numbers that follow each other have identities that differ in their cut alone. */
export function toEvent(
  market: Market,
  { n, variant }: Numbered,
): MessageInitShape<typeof UsageEventSchema> {
  const { consumers, apis, endMs } = market;
  const pair = Math.floor(n / 2);
  const accountId = pair % 100 === 50 ? consumers.at(-1) : consumers[pair % (consumers.length - 1)];
  return {
    ...identityOf(n),
    accountId: accountId ?? "",
    apiId: apis[pair % apis.length]?.id ?? "",
    // In no order.
    time: timestampFromMs(endMs - ((n * 7_919) % spanSeconds) * 1000),
    endpoint: endpointOf({ n, variant }),
    statusCode: n % 20 === 7 ? 503 : 0,
    test: n % 10 === 3,
  };
}

/** What the event is charged when it is applied. */
export function priceOf({ apis }: Market, n: number): bigint {
  return n % 20 === 7 ? 0n : BigInt(apis[Math.floor(n / 2) % apis.length]?.callNanos ?? 0);
}

/** The endpoint, which tells variants apart. */
export function endpointOf({ n, variant }: Numbered): string {
  return `GET /${n % 5}/${variant}`;
}

/** The variant that an endpoint tells. */
export function variantOf(endpoint: string): number {
  return Number(endpoint.split("/").at(-1));
}

function identityOf(n: number): { source: string; id: string } {
  const pair = Math.floor(n / 2);
  return n % 2 === 0
    ? { source: "urn:load:a-b", id: `c${pair}` }
    : { source: "urn:load:a", id: `b-c${pair}` };
}

/** The number of an identity. */
export function numberOf({ source, id }: { source: string; id: string }): number {
  return source === "urn:load:a" ? 2 * Number(id.slice(3)) + 1 : 2 * Number(id.slice(1));
}
