import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const apiRow = z.object({
  account_id: z.string(),
  id: z.string(),
  slug: z.string(),
  name: z.string(),
  description: z.string(),
  state: z.enum(["draft", "published", "unpublished"]),
  created_at: z.number(),
  updated_at: z.number(),
  price_version: z.number(),
  call_nanos: z.bigint(),
  fee_basis_points: z.number(),
});

/** An API with its newest price. */
export type ApiRow = z.infer<typeof apiRow>;

const apiQuery = sql.fragment`
  select apis.account_id, apis.id, apis.slug, apis.name, apis.description, apis.state,
    apis.created_at, apis.updated_at,
    price.version as price_version, price.call_nanos, price.fee_basis_points
  from apis
  cross join lateral (
    select version, call_nanos, fee_basis_points from api_prices
    where api_prices.account_id = apis.account_id and api_prices.api_id = apis.id
    order by version desc limit 1
  ) as price
`;

/** Find an API that the transaction may see: the account's own, or a published one. */
export function findApi(db: Queries, apiId: string): Promise<ApiRow | null> {
  return db.maybeOne(sql.type(apiRow)`${apiQuery} where apis.id = ${apiId}`);
}

const priceRow = z.object({
  id: z.string(),
  account_id: z.string(),
  price_version: z.number(),
  call_nanos: z.bigint(),
  fee_basis_points: z.number(),
  sheet: z.string(),
});

/** An API's newest price, and whose the API is. */
export type PriceRow = z.infer<typeof priceRow>;

/** List the newest prices of APIs, whoever has them. */
export function listPrices(db: Queries, apiIds: readonly string[]): Promise<readonly PriceRow[]> {
  return db.any(sql.type(priceRow)`
    select api.api_id as id, api.account_id,
      price.version as price_version, price.call_nanos, price.fee_basis_points, price.sheet
    from api_directory as api
    cross join lateral (
      select version, call_nanos, fee_basis_points, sheet from api_prices
      where api_prices.account_id = api.account_id and api_prices.api_id = api.api_id
      order by version desc limit 1
    ) as price
    where api.api_id = any(${sql.array([...apiIds], "text")})
  `);
}

/** List published APIs, newest first, before the given id (empty: from the newest). */
export function listPublishedApis(
  db: Queries,
  { after, limit }: { after: string; limit: number },
): Promise<readonly ApiRow[]> {
  return db.any(sql.type(apiRow)`
    ${apiQuery}
    where apis.state = 'published' and (${after} = '' or apis.id < ${after})
    order by apis.id desc limit ${limit}
  `);
}

const targetRow = apiRow.extend({ upstream_url: z.string() });

/** An API with its newest price and where its calls go. */
export type ApiTarget = z.infer<typeof targetRow>;

/** Find a published API by id or slug, with its upstream. For the gateway, which acts for all accounts. */
export function findApiTarget(db: Queries, idOrSlug: string): Promise<ApiTarget | null> {
  return db.maybeOne(sql.type(targetRow)`
    select api.*, api_upstreams.url as upstream_url
    from (${apiQuery}) as api
    join api_upstreams on api_upstreams.account_id = api.account_id and api_upstreams.api_id = api.id
    where api.state = 'published' and (api.id, api.account_id) in (
      select api_id, account_id from api_slugs where slug = ${idOrSlug}
      union all
      select api_id, account_id from api_directory where api_id = ${idOrSlug}
    )
  `);
}

/** What keeps the gateway's memory of APIs true: announced by id and by slug. */
export const apiTopic = "api";

/** What keeps opened credentials of upstreams true: announced by account. */
export const credentialTopic = "credential";

const definitionRow = z.object({
  name: z.string(),
  id: z.string(),
  slug: z.string(),
  account_id: z.string(),
  state: z.enum(["draft", "published", "unpublished"]),
  version: z.number(),
  call_nanos: z.bigint(),
  fee_basis_points: z.number(),
  sheet: z.string(),
  url: z.string(),
  settings: z.string(),
});

/** All that the gateway needs of an API, with its newest price. */
export interface ApiDefinition {
  id: string;
  slug: string;
  accountId: string;
  state: "draft" | "published" | "unpublished";
  version: number;
  callNanos: bigint;
  feeBasisPoints: number;
  /** The price sheet, canonical JSON. Empty: callNanos for each call. */
  sheet: string;
  url: string;
  /** callora.catalog.v1.ApiSettings as JSON. Empty: none. */
  settings: string;
}

/** List APIs by slug or id, in whatever state. For the gateway, which acts for all accounts. */
export async function listApiDefinitions(
  db: Queries,
  names: readonly string[],
): Promise<ReadonlyMap<string, ApiDefinition>> {
  const rows = await db.any(sql.type(definitionRow)`
    select asked.name, apis.id, apis.slug, apis.account_id, apis.state,
      price.version, price.call_nanos, price.fee_basis_points, price.sheet,
      api_upstreams.url, api_upstreams.settings
    from unnest(${sql.array([...names], "text")}) as asked (name)
    cross join lateral (
      select api_id, account_id from api_slugs where slug = asked.name
      union
      select api_id, account_id from api_directory where api_id = asked.name
    ) as found
    join apis on apis.account_id = found.account_id and apis.id = found.api_id
    join api_upstreams
      on api_upstreams.account_id = found.account_id and api_upstreams.api_id = found.api_id
    cross join lateral (
      select version, call_nanos, fee_basis_points, sheet from api_prices
      where api_prices.account_id = found.account_id and api_prices.api_id = found.api_id
      order by version desc limit 1
    ) as price
  `);
  return new Map(
    rows.map(({ name, account_id, call_nanos, fee_basis_points, ...row }) => [
      name,
      {
        ...row,
        accountId: account_id,
        callNanos: call_nanos,
        feeBasisPoints: fee_basis_points,
      },
    ]),
  );
}

/** Claim a slug for an API. False when another API has it. */
export async function claimSlug(
  tx: Tx,
  claim: { slug: string; accountId: string; apiId: string },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ api_id: z.string() }))`
    with slugged as (
      insert into api_slugs (slug, account_id, api_id)
      values (${claim.slug}, ${claim.accountId}, ${claim.apiId})
      on conflict do nothing returning api_id
    )
    insert into api_directory (api_id, account_id, slug)
    select api_id, ${claim.accountId}, ${claim.slug} from slugged
    returning api_id
  `);
  return row !== null;
}

/** Insert a draft with its upstream and its first price. */
export async function insertApi(
  tx: Tx,
  api: {
    accountId: string;
    id: string;
    slug: string;
    name: string;
    description: string;
    upstreamUrl: string;
    callNanos: bigint;
    feeBasisPoints: number;
  },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    with drafted as (
      insert into apis (account_id, id, slug, name, description)
      values (${api.accountId}, ${api.id}, ${api.slug}, ${api.name}, ${api.description})
    ), routed as (
      insert into api_upstreams (account_id, api_id, url)
      values (${api.accountId}, ${api.id}, ${api.upstreamUrl})
    )
    insert into api_prices (account_id, api_id, version, call_nanos, fee_basis_points)
    values (${api.accountId}, ${api.id}, 1, ${api.callNanos}, ${api.feeBasisPoints})
  `);
}

/** Change what is not null. Locks the API, so that price versions come one after the other. */
export async function updateApi(
  tx: Tx,
  api: { accountId: string; id: string; name: string | null; description: string | null },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    update apis set
      name = coalesce(${api.name}, name),
      description = coalesce(${api.description}, description),
      updated_at = now()
    where account_id = ${api.accountId} and id = ${api.id}
    returning id
  `);
  return row !== null;
}

/** Send an API's calls somewhere else from now on. */
export async function updateUpstream(
  tx: Tx,
  upstream: { accountId: string; apiId: string; url: string },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update api_upstreams set url = ${upstream.url}
    where account_id = ${upstream.accountId} and api_id = ${upstream.apiId}
  `);
}

/** Give an API a new price version, unless the newest one is the same. */
export async function insertPrice(
  tx: Tx,
  price: { accountId: string; apiId: string; callNanos: bigint; feeBasisPoints: number },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into api_prices (account_id, api_id, version, call_nanos, fee_basis_points)
    select account_id, api_id, version + 1, ${price.callNanos}, ${price.feeBasisPoints}
    from api_prices as newest
    where account_id = ${price.accountId} and api_id = ${price.apiId}
      and version = (
        select max(version) from api_prices
        where account_id = ${price.accountId} and api_id = ${price.apiId}
      )
      and (call_nanos, fee_basis_points) is distinct from
        (${price.callNanos}::int8, ${price.feeBasisPoints}::int4)
  `);
}

/** Publish one of the account's APIs. False when it has none of that id. */
export async function publishApi(tx: Tx, accountId: string, apiId: string): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    update apis set state = 'published', updated_at = now()
    where account_id = ${accountId} and id = ${apiId}
    returning id
  `);
  return row !== null;
}

const upstreamRow = z.object({ url: z.string() });

/** Find where one of the account's own APIs sends calls. */
export async function findUpstream(
  db: Queries,
  accountId: string,
  apiId: string,
): Promise<string | null> {
  const row = await db.maybeOne(sql.type(upstreamRow)`
    select url from api_upstreams where account_id = ${accountId} and api_id = ${apiId}
  `);
  return row?.url ?? null;
}

/** Whether an API is published. */
export async function existsPublishedApi(db: Queries, apiId: string): Promise<boolean> {
  const row = await db.maybeOne(sql.type(z.object({ id: z.string() }))`
    select id from apis where id = ${apiId} and state = 'published'
  `);
  return row !== null;
}
