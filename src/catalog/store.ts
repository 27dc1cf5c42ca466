import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const apiRow = z.object({
  account_id: z.string(),
  id: z.string(),
  slug: z.string(),
  name: z.string(),
  description: z.string(),
  category: z.string(),
  state: z.enum(["draft", "published", "unpublished"]),
  created_at: z.number(),
  updated_at: z.number(),
  price_version: z.number(),
  price_created_at: z.number(),
  call_nanos: z.bigint(),
  fee_basis_points: z.number(),
  sheet: z.string(),
});

/** An API with its newest price. */
export type ApiRow = z.infer<typeof apiRow>;

const apiColumns = sql.fragment`
  apis.account_id, apis.id, apis.slug, apis.name, apis.description, apis.category, apis.state,
  apis.created_at, apis.updated_at,
  price.version as price_version, price.created_at as price_created_at,
  price.call_nanos, price.fee_basis_points
`;

const pricedApis = sql.fragment`
  apis
  cross join lateral (
    select version, created_at, call_nanos, fee_basis_points, sheet from api_prices
    where api_prices.account_id = apis.account_id and api_prices.api_id = apis.id
    order by version desc limit 1
  ) as price
`;

const apiQuery = sql.fragment`select ${apiColumns}, price.sheet from ${pricedApis}`;

// Two hundred routes of each of 250 APIs would be a long answer.
const shortSheet = sql.fragment`
  case price.sheet when '' then '' else
    json_build_object('rule', price.sheet::json -> 'rule', 'routes', json_build_array())::text
  end
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
  /** The canonical text of the default rule. Empty: call_nanos for each call. */
  rule: z.string(),
});

/** An API's newest price, and whose the API is. */
export type PriceRow = z.infer<typeof priceRow>;

/** List the newest prices of APIs, whoever has them. */
export function listNewestPrices(
  db: Queries,
  apiIds: readonly string[],
): Promise<readonly PriceRow[]> {
  return db.any(sql.type(priceRow)`
    select api.api_id as id, api.account_id,
      price.version as price_version, price.call_nanos, price.fee_basis_points,
      case price.sheet when '' then '' else price.sheet::json ->> 'rule' end as rule
    from api_directory as api
    cross join lateral (
      select version, call_nanos, fee_basis_points, sheet from api_prices
      where api_prices.account_id = api.account_id and api_prices.api_id = api.api_id
      order by version desc limit 1
    ) as price
    where api.api_id = any(${sql.array([...apiIds], "text")})
  `);
}

/** Which published APIs are looked for. What is empty is not looked at. */
export interface ApiFilter {
  category: string;
  /** A text in the name, the slug or the description, in any case. */
  query: string;
  developerId: string;
}

/** List published APIs without their routes, newest first, before the given id (empty: from the newest). */
export function listPublishedApis(
  db: Queries,
  { category, query, developerId }: ApiFilter,
  { after, limit }: { after: string; limit: number },
): Promise<readonly ApiRow[]> {
  return db.any(sql.type(apiRow)`
    select ${apiColumns}, ${shortSheet} as sheet from ${pricedApis}
    where apis.state = 'published' and (${after} = '' or apis.id < ${after})
      and (${category} = '' or apis.category = ${category})
      and (${developerId} = '' or apis.account_id = ${developerId})
      and (${query} = '' or strpos(
        lower(concat_ws(chr(10), apis.name, apis.slug, apis.description)), lower(${query})
      ) > 0)
    order by apis.id desc limit ${limit}
  `);
}

const ownRow = apiRow.extend({ url: z.string(), settings: z.string() });

/** List an account's APIs without their routes, newest first, in one state (empty: in any). */
export function listAccountApis(
  db: Queries,
  { accountId, state }: { accountId: string; state: ApiRow["state"] | "" },
  { after, limit }: { after: string; limit: number },
): Promise<readonly z.infer<typeof ownRow>[]> {
  return db.any(sql.type(ownRow)`
    select ${apiColumns}, ${shortSheet} as sheet, api_upstreams.url, api_upstreams.settings
    from ${pricedApis}
    join api_upstreams
      on api_upstreams.account_id = apis.account_id and api_upstreams.api_id = apis.id
    where apis.account_id = ${accountId} and (${after} = '' or apis.id < ${after})
      and (${state} = '' or apis.state = ${state})
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
    category: string;
    upstreamUrl: string;
    settings: string;
    callNanos: bigint;
    feeBasisPoints: number;
    sheet: string;
  },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    with drafted as (
      insert into apis (account_id, id, slug, name, description, category)
      values (
        ${api.accountId}, ${api.id}, ${api.slug}, ${api.name}, ${api.description}, ${api.category}
      )
    ), routed as (
      insert into api_upstreams (account_id, api_id, url, settings)
      values (${api.accountId}, ${api.id}, ${api.upstreamUrl}, ${api.settings})
    )
    insert into api_prices (account_id, api_id, version, call_nanos, fee_basis_points, sheet)
    values (${api.accountId}, ${api.id}, 1, ${api.callNanos}, ${api.feeBasisPoints}, ${api.sheet})
  `);
}

/** Change what is not null. Locks the API, so that price versions come one after the other. False: there is none. */
export async function updateApi(
  tx: Tx,
  api: {
    accountId: string;
    id: string;
    name: string | null;
    description: string | null;
    category: string | null;
  },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    update apis set
      name = coalesce(${api.name}, name),
      description = coalesce(${api.description}, description),
      category = coalesce(${api.category}, category),
      updated_at = now()
    where account_id = ${api.accountId} and id = ${api.id}
    returning id
  `);
  return row !== null;
}

/** Change what is not null of where an API's calls go, and how. */
export async function updateUpstream(
  tx: Tx,
  upstream: { accountId: string; apiId: string; url: string | null; settings: string | null },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update api_upstreams set
      url = coalesce(${upstream.url}, url),
      settings = coalesce(${upstream.settings}, settings)
    where account_id = ${upstream.accountId} and api_id = ${upstream.apiId}
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

/** Unpublish one of the account's APIs. A draft stays one. False when it has none of that id. */
export async function unpublishApi(tx: Tx, accountId: string, apiId: string): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    update apis set
      state = case state when 'published' then 'unpublished' else state end,
      updated_at = now()
    where account_id = ${accountId} and id = ${apiId}
    returning id
  `);
  return row !== null;
}

const upstreamRow = z.object({ url: z.string(), settings: z.string() });

/** Where an API's calls go, and how. */
export type UpstreamRow = z.infer<typeof upstreamRow>;

/** Find where one of the account's own APIs sends calls. */
export function findUpstream(
  db: Queries,
  accountId: string,
  apiId: string,
): Promise<UpstreamRow | null> {
  return db.maybeOne(sql.type(upstreamRow)`
    select url, settings from api_upstreams where account_id = ${accountId} and api_id = ${apiId}
  `);
}

/** Whether an API is published. */
export async function existsPublishedApi(db: Queries, apiId: string): Promise<boolean> {
  const row = await db.maybeOne(sql.type(z.object({ id: z.string() }))`
    select id from apis where id = ${apiId} and state = 'published'
  `);
  return row !== null;
}
