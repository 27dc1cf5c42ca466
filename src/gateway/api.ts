import type { PriceRule } from "../catalog/price-rule.ts";
import type { RouteMatch } from "../catalog/routes.ts";
import { type ApiDefinition, listApiDefinitions } from "../catalog/store.ts";
import type { Sealer } from "../credentials/seal.ts";
import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import type { Pinned } from "../metering/entry.ts";
import type { Mode } from "../rpc/principal.ts";
import type { UpstreamSet, Upstreams } from "./upstream.ts";

/** What a call of a route costs. */
export interface RoutePrice {
  readonly pinned: Pinned;
  /** Null: pinned.unitNanos for each call. */
  readonly rule: PriceRule | null;
  /** How it is named in analytics. Empty: by endpointName(). */
  readonly endpoint: string;
}

/** From where browsers may call. */
export interface CorsRule {
  allows(origin: string): boolean;
  readonly isAny: boolean;
}

/** A secret that is sent to an API's upstreams. */
export interface CredentialHeader {
  readonly header: string;
  /** Null: it cannot be opened, and no call may be sent without it. */
  value(mode: Mode): MaybePromise<string | null>;
}

/** All that the gateway needs of an API. Never changes: a change of the API makes another. */
export interface GatewayApi {
  readonly id: string;
  readonly slug: string;
  /** Whose it is. */
  readonly accountId: string;
  readonly isCallable: boolean;
  /** The path as it was sent, still encoded, with its leading slash. */
  match(method: string, rawPath: string): RouteMatch<RoutePrice>;
  readonly live: UpstreamSet;
  /** Null: test calls are echoed. */
  readonly test: UpstreamSet | null;
  readonly credential: CredentialHeader | null;
  /** Whether replies do not wait for their events. */
  readonly isAsync: boolean;
  /** To the first byte, and between bytes. */
  readonly timeoutMs: number;
  /** Of a whole call. */
  readonly durationMsMax: number;
  readonly retries: number;
  /** Null: no browser may call. */
  readonly cors: CorsRule | null;
  /** Zero: no limit. */
  readonly responseBytesMax: number;
}

/** APIs, remembered by id and by slug. */
export interface ApiMemory {
  /** Null: there is none. In whatever state: ask isCallable. */
  get(name: string, beforeLoad?: () => void): MaybePromise<GatewayApi | null>;
}

/** What the memory is made from. */
export interface ApiMemoryDeps {
  db: Database;
  trust: Trust;
  sealer: Pick<Sealer, "open">;
  upstreams: Upstreams;
  /** Of APIs that say nothing of it. */
  timeoutMs: number;
  now: () => Date;
}

/** Remember APIs. */
export function rememberApis({ db, upstreams, timeoutMs }: ApiMemoryDeps): ApiMemory {
  return {
    async get(name, beforeLoad) {
      beforeLoad?.();
      const found = await db.systemTransaction((tx) => listApiDefinitions(tx, [name]));
      const definition = found.get(name);
      return definition === undefined ? null : toGatewayApi(definition, { upstreams, timeoutMs });
    },
  };
}

function toGatewayApi(
  definition: ApiDefinition,
  { upstreams, timeoutMs }: Pick<ApiMemoryDeps, "upstreams" | "timeoutMs">,
): GatewayApi {
  const { id, slug, accountId, version, callNanos, feeBasisPoints } = definition;
  const value: RoutePrice = {
    pinned: {
      apiId: id,
      developerId: accountId,
      version,
      unitNanos: callNanos,
      feeBasisPoints,
      rule: "",
    },
    rule: null,
    endpoint: "",
  };
  const live = upstreams.setOf([{ url: definition.url, weight: 1 }]);
  return {
    id,
    slug,
    accountId,
    isCallable: definition.state === "published",
    match: () => ({ kind: "match", value, endpoint: "" }),
    live,
    test: live,
    credential: null,
    isAsync: false,
    timeoutMs,
    durationMsMax: 600_000,
    retries: 1,
    cors: null,
    responseBytesMax: 0,
  };
}
