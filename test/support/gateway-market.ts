import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
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
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
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
  const { api } = await untilKnown(() =>
    catalog.createApi({
      name: "An API",
      slug,
      upstreamUrl,
      ...(unitNanos === 0n ? { callNanos } : { rule: perUnit(callNanos, unitNanos) }),
      settings: { ...settings, ...(isAsync ? { delivery: DeliveryMode.ASYNC } : {}) },
    }),
  );
  const apiId = must(api).id;
  await untilKnown(() => catalog.publishApi({ apiId }));
  return { slug, callNanos, unitNanos, isAsync };
}

const knownMsMax = 30_000;

/**
 * Call a server until it knows what holds. A process that has to wait for its core does not for a while: it refuses calls
 * before it does anything.
 */
async function untilKnown<T>(call: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + knownMsMax;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
      const isUnknown = info?.reason === "TRUST_LOST";
      if (!isUnknown || performance.now() > deadline) {
        throw error;
      }
      await sleep(250);
    }
  }
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
  const keys = clientOf(KeyService, url, token);
  const { secret, key } = await untilKnown(() => keys.createKey({}));
  await asSuperuser({ urls }, (client) =>
    client.query(
      `insert into rate_overrides (account_id, subject_id, rate_class, per_minute, burst)
       values ($1, $2, 'v1', 6000000, 1000000)`,
      [accountId, must(key).id],
    ),
  );
  if (budgetNanos !== undefined) {
    const budgets = clientOf(BudgetService, url, token);
    const budget = { scope: BudgetScope.ACCOUNT, period: BudgetPeriod.TOTAL };
    await untilKnown(() => budgets.putBudget({ ...budget, limitNanos: budgetNanos }));
  }
  return { accountId, secret, apis };
}
