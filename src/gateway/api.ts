import { durationMs } from "@bufbuild/protobuf/wkt";
import { DeliveryMode } from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { type PriceRule, ruleText } from "../catalog/price-rule.ts";
import { compileRoutes, type RouteMatch } from "../catalog/routes.ts";
import { parseSettings } from "../catalog/settings.ts";
import { parseSheet } from "../catalog/sheet.ts";
import { type ApiDefinition, apiTopic, listApiDefinitions } from "../catalog/store.ts";
import type { Sealer } from "../credentials/seal.ts";
import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import type { Pinned } from "../metering/entry.ts";
import {
  type CredentialHeader,
  type CredentialMemory,
  credentialHeader,
  rememberCredentials,
} from "./credential.ts";
import type { UpstreamSet, Upstreams } from "./upstream.ts";

/** What a call of a route costs. */
export interface RoutePrice {
  readonly pinned: Pinned;
  /** Null: pinned.unitNanos for each call. */
  readonly rule: PriceRule | null;
}

/** From where browsers may call. */
export interface CorsRule {
  allows(origin: string): boolean;
  readonly isAny: boolean;
}

/** All that the gateway needs of an API. Never changes: a change of the API makes another. */
export interface GatewayApi {
  readonly id: string;
  readonly slug: string;
  /** Whose it is. */
  readonly accountId: string;
  readonly isCallable: boolean;
  /**
   * The path as it was sent, still encoded, with its leading slash. The endpoint is empty when the API has no routes:
   * then EndpointNames name it.
   */
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

/** APIs that are remembered. One takes a few kilobytes; with as many routes as there may be, up to a megabyte. */
const apisMax = 5_000;

/** Remember APIs. Whoever changes one announces its id and its slug under `apiTopic`. */
export function rememberApis(deps: ApiMemoryDeps): ApiMemory {
  const { db, trust } = deps;
  const parts = { ...deps, credentials: rememberCredentials(deps) };
  return trust.remember<GatewayApi>(apiTopic, {
    entriesMax: apisMax,
    load: async (names) => {
      const found = await db.systemTransaction((tx) => listApiDefinitions(tx, names));
      const apis = new Map<string, GatewayApi>();
      for (const [name, definition] of found) {
        apis.set(name, toGatewayApi(definition, parts));
      }
      return apis;
    },
  });
}

interface Parts extends Pick<ApiMemoryDeps, "upstreams" | "timeoutMs"> {
  credentials: CredentialMemory;
}

const durationMsDefault = 600_000;
const retriesDefault = 1;

function toGatewayApi(
  definition: ApiDefinition,
  { upstreams, timeoutMs, credentials }: Parts,
): GatewayApi {
  const { id, slug, accountId, state, url } = definition;
  const settings = parseSettings(definition.settings);
  const live = settings.upstreams.length === 0 ? [{ url, weight: 1 }] : settings.upstreams;
  const { credential, timeout, durationMax, retries } = settings;
  return {
    id,
    slug,
    accountId,
    isCallable: state === "published",
    match: toMatch(definition),
    live: upstreams.setOf(live, id),
    test: settings.testUpstreams.length === 0 ? null : upstreams.setOf(settings.testUpstreams, id),
    credential:
      credential === undefined ? null : credentialHeader(credentials, { ...credential, accountId }),
    isAsync: settings.delivery === DeliveryMode.ASYNC,
    timeoutMs: timeout === undefined ? timeoutMs : durationMs(timeout),
    durationMsMax: durationMax === undefined ? durationMsDefault : durationMs(durationMax),
    retries: retries ?? retriesDefault,
    cors: toCors(settings.corsOrigins),
    responseBytesMax: Number(settings.responseBytesMax),
  };
}

/** An API without routes matches every path with its default price. */
function toMatch(definition: ApiDefinition): GatewayApi["match"] {
  const sheet = parseSheet(definition.sheet);
  const fallback = toRoutePrice(definition, sheet.rule);
  if (sheet.routes.length === 0) {
    const always = { kind: "match", value: fallback, endpoint: "" } as const;
    return () => always;
  }
  const table = compileRoutes(
    sheet.routes.map(({ methods, path, rule }) => {
      const value = rule === null ? fallback : toRoutePrice(definition, rule);
      return { methods, path, value };
    }),
  );
  return (method, rawPath) => table.match(method, rawPath);
}

function toRoutePrice(definition: ApiDefinition, rule: PriceRule | null): RoutePrice {
  return {
    pinned: {
      apiId: definition.id,
      developerId: definition.accountId,
      version: definition.version,
      unitNanos: rule === null ? definition.callNanos : rule.callNanos,
      feeBasisPoints: definition.feeBasisPoints,
      rule: rule === null ? "" : ruleText(rule),
    },
    rule,
  };
}

function toCors(origins: readonly string[]): CorsRule | null {
  if (origins.length === 0) {
    return null;
  }
  const known = new Set(origins);
  const isAny = known.has("*");
  return { isAny, allows: (origin) => isAny || known.has(origin) };
}
