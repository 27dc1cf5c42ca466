import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  ApiState,
  type CatalogService,
  CreateApiResponseSchema,
} from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import { type AddressPolicy, addressLiteral, portOf } from "../lib/address.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { alreadyExists, invalidArgument, notBuilt, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { priceTopic } from "./prices.ts";
import {
  type ApiRow,
  claimSlug,
  findApi,
  findUpstream,
  insertApi,
  insertPrice,
  listPublishedApis,
  publishApi,
  updateApi,
  updateUpstream,
} from "./store.ts";

interface Deps {
  db: Database;
  trust: Trust;
  addresses: AddressPolicy;
  /** The platform's share of new prices. */
  feeBasisPoints: number;
  now: () => Date;
}

/** The handlers of proto/callora/catalog/v1/catalog_service.proto. */
export function catalogService(deps: Deps): ServiceImpl<typeof CatalogService> {
  const { db, trust, feeBasisPoints, now } = deps;
  return {
    async listApis(req) {
      const { size, after } = pageOf(req);
      const rows = await db.systemTransaction((tx) =>
        listPublishedApis(tx, { after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { apis: page.map((row) => toApi(row)), nextPageToken };
    },

    async getApi(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const api = await db.tenantRead(accountId, (tx) => readApi(tx, accountId, req.apiId));
      return { api };
    },

    async createApi(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      checkUpstream(req.upstreamUrl, deps.addresses);
      const retry = retryOf(ctx);
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const scope = { accountId, retry, response: CreateApiResponseSchema, audit };
        return once(tx, scope, async () => {
          const id = newId("api", now());
          if (!(await claimSlug(tx, { slug: req.slug, accountId, apiId: id }))) {
            const message = `Cannot create the API: slug "${req.slug}" is taken`;
            throw alreadyExists("SLUG_TAKEN", message);
          }
          const { slug, name, description, upstreamUrl, callNanos } = req;
          const draft = { slug, name, description, upstreamUrl, callNanos };
          await insertApi(tx, { accountId, id, ...draft, feeBasisPoints });
          audit.record(`api:${id}`);
          return { api: await readApi(tx, accountId, id) };
        });
      });
    },

    async updateApi(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const { apiId, name = null, description = null } = req;
      if (req.upstreamUrl !== undefined) {
        checkUpstream(req.upstreamUrl, deps.addresses);
      }
      const { api, epoch } = await db.tenantTransaction(tenant, async (tx, audit) => {
        if (!(await updateApi(tx, { accountId, id: apiId, name, description }))) {
          throw notFound("the API");
        }
        if (req.upstreamUrl !== undefined) {
          await updateUpstream(tx, { accountId, apiId, url: req.upstreamUrl });
        }
        if (req.callNanos !== undefined) {
          await insertPrice(tx, { accountId, apiId, callNanos: req.callNanos, feeBasisPoints });
        }
        audit.record(`api:${apiId}`);
        const api = await readApi(tx, accountId, apiId);
        const isPriced = req.callNanos !== undefined;
        return { api, epoch: isPriced ? await trust.announce(tx, priceTopic, [apiId]) : null };
      });
      // Who is told of the new price is charged it, whichever process records the use.
      if (epoch !== null) {
        await trust.settled(epoch);
      }
      return { api };
    },

    async publishApi({ apiId }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      return db.tenantTransaction(tenant, async (tx, audit) => {
        if (!(await publishApi(tx, accountId, apiId))) {
          throw notFound("the API");
        }
        audit.record(`api:${apiId}`);
        return { api: await readApi(tx, accountId, apiId) };
      });
    },

    async unpublishApi() {
      throw notBuilt("CatalogService/UnpublishApi");
    },

    async listOwnApis() {
      throw notBuilt("CatalogService/ListOwnApis");
    },

    async listPrices() {
      throw notBuilt("CatalogService/ListPrices");
    },
  };
}

/** Only the developer sees the upstream: row-level security hides it from everybody else. */
async function readApi(tx: Tx, accountId: string, apiId: string) {
  const row = await findApi(tx, apiId);
  if (row === null) {
    throw notFound("the API");
  }
  return toApi(row, (await findUpstream(tx, accountId, apiId)) ?? "");
}

/**
 * Refuse an upstream that the gateway could never call. A host that is a name is checked again, by its addresses,
 * whenever the gateway connects.
 */
function checkUpstream(text: string, addresses: AddressPolicy): void {
  const refuse = (description: string) =>
    invalidArgument([{ field: "upstream_url", description }], "UPSTREAM_NOT_ALLOWED");
  const url = URL.parse(text);
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw refuse("must be an http or https address");
  }
  if (url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== "") {
    throw refuse("must not carry credentials, a query or a fragment");
  }
  const literal = addressLiteral(url);
  if (literal !== undefined && !addresses.allows(literal, portOf(url))) {
    throw refuse("is an address that the gateway must not reach");
  }
}

const stateOf = {
  draft: ApiState.DRAFT,
  published: ApiState.PUBLISHED,
  unpublished: ApiState.UNPUBLISHED,
} satisfies Record<ApiRow["state"], ApiState>;

function toApi(row: ApiRow, upstreamUrl = "") {
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    updateTime: timestampFromMs(row.updated_at),
    developerAccountId: row.account_id,
    name: row.name,
    slug: row.slug,
    description: row.description,
    state: stateOf[row.state],
    price: {
      version: row.price_version,
      callNanos: row.call_nanos,
      feeBasisPoints: row.fee_basis_points,
    },
    upstreamUrl,
  };
}
