import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type ApiSettingsSchema,
  CatalogService,
  DeliveryMode,
} from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import type { PriceRuleSchema } from "../../gen/callora/catalog/v1/price_pb.ts";
import {
  BudgetPeriod,
  BudgetScope,
  BudgetService,
} from "../../gen/callora/credits/v1/budget_service_pb.ts";
import { KeyService } from "../../gen/callora/keys/v1/key_service_pb.ts";
import type { Database } from "../../src/db/database.ts";
import { must } from "./app.ts";
import { grant } from "./grant.ts";
import { newPerson } from "./people.ts";
import { clientOf } from "./process.ts";
import { asSuperuser } from "./superuser.ts";

/** A published API of a test. */
export interface SoldApi {
  slug: string;
  /** What a call costs, and each unit that its reply names. */
  callNanos: bigint;
  unitNanos: bigint;
  /** Replies do not wait for their events. */
  isAsync: boolean;
}

/** Somebody who calls APIs with a key that opens all of them. */
export interface Consumer {
  accountId: string;
  secret: string;
  /** The index of the APIs that are called with it. */
  apis: readonly number[];
}

/** Who calls what through a gateway. */
export interface GatewayMarket {
  apis: readonly SoldApi[];
  consumers: readonly Consumer[];
}

/** Where a market is opened: a server, and its database for what no call does. */
export interface MarketPlace {
  db: Database;
  url: string;
  urls: { superuser: string };
}

/** Publish an API whose calls go to the address. */
export async function sellApi(
  { db, url }: MarketPlace,
  upstreamUrl: string,
  {
    callNanos,
    unitNanos = 0n,
    isAsync = false,
    settings = {},
  }: Pick<SoldApi, "callNanos"> &
    Partial<SoldApi> & {
      settings?: MessageInitShape<typeof ApiSettingsSchema>;
    },
): Promise<SoldApi> {
  const developer = await newPerson(db, "developer");
  const catalog = clientOf(CatalogService, url, developer.token);
  const slug = `a${randomUUID().slice(0, 12)}`;
  const { api } = await catalog.createApi({
    name: "An API",
    slug,
    upstreamUrl,
    ...(unitNanos === 0n ? { callNanos } : { rule: perUnit(callNanos, unitNanos) }),
    settings: { ...settings, ...(isAsync ? { delivery: DeliveryMode.ASYNC } : {}) },
  });
  const apiId = must(api).id;
  await catalog.publishApi({ apiId });
  return { slug, callNanos, unitNanos, isAsync };
}

/** At most ten units a call, which the reply names. */
function perUnit(callNanos: bigint, unitNanos: bigint): MessageInitShape<typeof PriceRuleSchema> {
  return {
    callNanos,
    units: { from: { case: "jsonPath", value: "$.units" }, missingUnits: 1n },
    tiers: [{ lastUnit: 0n, nanos: unitNanos }],
    unitsMax: 10n,
  };
}

/** Make a consumer with credit, whose key is as good as not limited. */
export async function newConsumer(
  { db, url, urls }: MarketPlace,
  {
    creditNanos,
    apis,
    budgetNanos,
  }: { creditNanos: bigint; apis: readonly number[]; budgetNanos?: bigint },
): Promise<Consumer> {
  const { accountId, token } = await newPerson(db);
  if (creditNanos > 0n) {
    await grant(db, accountId, creditNanos);
  }
  const { secret, key } = await clientOf(KeyService, url, token).createKey({});
  await asSuperuser({ urls }, (client) =>
    client.query(
      `insert into rate_overrides (account_id, subject_id, rate_class, per_minute, burst)
       values ($1, $2, 'v1', 6000000, 1000000)`,
      [accountId, must(key).id],
    ),
  );
  if (budgetNanos !== undefined) {
    await clientOf(BudgetService, url, token).putBudget({
      scope: BudgetScope.ACCOUNT,
      period: BudgetPeriod.TOTAL,
      limitNanos: budgetNanos,
    });
  }
  return { accountId, secret, apis };
}
