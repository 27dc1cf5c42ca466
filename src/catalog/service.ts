import type { ServiceImpl } from "@connectrpc/connect";
import {
  type CatalogService,
  CreateApiResponseSchema,
} from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import type { AddressPolicy } from "../lib/address.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { alreadyExists, notFound } from "../rpc/errors.ts";
import { badPageToken, pageOf } from "../rpc/page.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { changeApi, checkRequest, insertDraft } from "./change.ts";
import { toApi, toPrice, toRowState } from "./message.ts";
import { priceTopic } from "./prices.ts";
import {
  type ApiRow,
  apiTopic,
  claimSlug,
  findApi,
  findUpstream,
  listAccountApis,
  listPublishedApis,
  publishApi,
  type UpstreamRow,
  unpublishApi,
} from "./store.ts";
import { listVersions } from "./version-store.ts";

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
      const { category, query, developerAccountId: developerId } = req;
      const filter = { category, query, developerId };
      const rows = await db.systemTransaction((tx) =>
        listPublishedApis(tx, filter, { after, limit: size + 1 }),
      );
      return toPage(rows, size);
    },

    async getApi(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const api = await db.tenantRead(accountId, (tx) => readApi(tx, accountId, req.apiId));
      return { api };
    },

    async createApi(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      checkRequest(req, deps.addresses);
      const retry = retryOf(ctx);
      return db.tenantTransaction(tenant, async (tx, audit) => {
        const scope = { accountId, retry, response: CreateApiResponseSchema, audit };
        return once(tx, scope, async () => {
          const id = newId("api", now());
          if (!(await claimSlug(tx, { slug: req.slug, accountId, apiId: id }))) {
            const message = `Cannot create the API: slug "${req.slug}" is taken`;
            throw alreadyExists("SLUG_TAKEN", message);
          }
          await insertDraft(tx, { accountId, id, feeBasisPoints }, req);
          audit.record(`api:${id}`);
          return { api: await readApi(tx, accountId, id) };
        });
      });
    },

    async updateApi(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const { apiId: id } = req;
      checkRequest(req, deps.addresses);
      const { api, epoch } = await db.tenantTransaction(tenant, async (tx, audit) => {
        const changed = await changeApi(tx, { accountId, id, feeBasisPoints }, req);
        audit.record(`api:${id}`);
        const upstream = await findUpstream(tx, accountId, id);
        return { api: toApi(changed.api, upstream), epoch: await announce(tx, trust, changed) };
      });
      // Who is told of the new price is charged it, whichever process takes the call.
      await trust.settled(epoch);
      return { api };
    },

    async publishApi({ apiId }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const { api, epoch } = await db.tenantTransaction(tenant, async (tx, audit) => {
        if (!(await publishApi(tx, accountId, apiId))) {
          throw notFound("the API");
        }
        audit.record(`api:${apiId}`);
        const shown = await readApi(tx, accountId, apiId);
        return { api: shown, epoch: await announce(tx, trust, { api: shown, isPriced: false }) };
      });
      await trust.settled(epoch);
      return { api };
    },

    async unpublishApi({ apiId }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const { api, epoch } = await db.tenantTransaction(tenant, async (tx, audit) => {
        if (!(await unpublishApi(tx, accountId, apiId))) {
          throw notFound("the API");
        }
        audit.record(`api:${apiId}`);
        const shown = await readApi(tx, accountId, apiId);
        return { api: shown, epoch: await announce(tx, trust, { api: shown, isPriced: false }) };
      });
      // Once this is answered no process takes another call of it.
      await trust.settled(epoch);
      return { api };
    },

    async listOwnApis(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const wanted = { accountId, state: toRowState(req.state) };
      const rows = await db.tenantRead(accountId, (tx) =>
        listAccountApis(tx, wanted, { after, limit: size + 1 }),
      );
      return toPage(rows, size);
    },

    async listPrices(req) {
      const { size, after } = pageOf(req);
      const { apiId } = req;
      const before = versionOf(after);
      const rows = await db.systemTransaction((tx) =>
        listVersions(tx, { apiId, before, limit: size + 1 }),
      );
      if (rows.length === 0 && before === 0) {
        throw notFound("the API");
      }
      const { page, nextPageToken } = splitPage(rows, { size, id: ({ version }) => `${version}` });
      return { prices: page.map(toPrice), nextPageToken };
    },
  };
}

function toPage(rows: readonly (ApiRow & Partial<UpstreamRow>)[], size: number) {
  const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
  return { apis: page.map((row) => toApi(row, row)), nextPageToken };
}

/** The version that a page token stands for. Zero for the first page. */
function versionOf(after: string): number {
  if (!/^\d{0,9}$/.test(after)) {
    throw badPageToken();
  }
  return Number(after);
}

/** Only the developer sees the upstream: row-level security hides it from everybody else. */
async function readApi(tx: Tx, accountId: string, apiId: string) {
  const row = await findApi(tx, apiId);
  if (row === null) {
    throw notFound("the API");
  }
  return toApi(row, await findUpstream(tx, accountId, apiId));
}

/** Let processes forget what they know of an API. */
async function announce(
  tx: Tx,
  trust: Pick<Trust, "announce">,
  { api: { id, slug }, isPriced }: { api: { id: string; slug: string }; isPriced: boolean },
): Promise<bigint> {
  if (isPriced) {
    await trust.announce(tx, priceTopic, [id]);
  }
  return trust.announce(tx, apiTopic, [id, slug]);
}
