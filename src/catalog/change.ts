import type {
  CreateApiRequest,
  UpdateApiRequest,
} from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import type { PriceRule } from "../../gen/callora/catalog/v1/price_pb.ts";
import type { Tx } from "../db/pool.ts";
import type { AddressPolicy } from "../lib/address.ts";
import { invalidArgument, notFound, type Violation } from "../rpc/errors.ts";
import { ruleOf } from "./price-rule.ts";
import { type AddressedRequest, checkAddresses, checkSettings, settingsText } from "./settings.ts";
import { checkSheet, parseSheet, routeMessages, ruleMessage, sheetOf, sheetText } from "./sheet.ts";
import { type ApiRow, findApi, insertApi, updateApi, updateUpstream } from "./store.ts";
import { insertPrice } from "./version-store.ts";

/** Throws INVALID_ARGUMENT unless the gateway can call the upstreams, and treat calls as it is said. */
export function checkRequest(req: AddressedRequest, addresses: AddressPolicy): void {
  const unreachable = checkAddresses(req, addresses);
  if (unreachable.length > 0) {
    throw invalidArgument(unreachable, "UPSTREAM_NOT_ALLOWED");
  }
  refuse(checkSettings(req.settings));
}

function refuse(violations: Violation[]): void {
  if (violations.length > 0) {
    throw invalidArgument(violations);
  }
}

interface Owned {
  accountId: string;
  id: string;
  /** The platform's share of new prices. */
  feeBasisPoints: number;
}

/** Insert a draft as it was asked for. Throws INVALID_ARGUMENT for a price that makes no sense. */
export async function insertDraft(tx: Tx, api: Owned, req: CreateApiRequest): Promise<void> {
  const { slug, name, description, category, upstreamUrl, rule, routes } = req;
  refuse([...checkCallNanos(req), ...checkSheet({ rule, routes }, "routes")]);
  await insertApi(tx, {
    ...api,
    ...{ slug, name, description, category, upstreamUrl },
    settings: req.settings === undefined ? "" : settingsText(req.settings),
    callNanos: rule?.callNanos ?? req.callNanos,
    sheet: sheetText(sheetOf({ rule, routes })),
  });
}

/** Beside a rule, the price of a call is the rule's. */
function checkCallNanos({
  callNanos = 0n,
  rule,
}: {
  callNanos?: bigint | undefined;
  rule?: PriceRule | undefined;
}): Violation[] {
  const isOther = rule !== undefined && callNanos !== 0n && callNanos !== rule.callNanos;
  return isOther ? [{ field: "call_nanos", description: "must be zero or the rule's own" }] : [];
}

/** What a change of an API was about. */
export interface Changed {
  api: ApiRow;
  /** Whether it may have a new price. */
  isPriced: boolean;
}

/** Change what is set. Throws NOT_FOUND, or INVALID_ARGUMENT for a price that makes no sense. */
export async function changeApi(tx: Tx, api: Owned, req: UpdateApiRequest): Promise<Changed> {
  const { accountId, id } = api;
  const { name = null, description = null, category = null, upstreamUrl, settings } = req;
  if (!(await updateApi(tx, { accountId, id, name, description, category }))) {
    throw notFound("the API");
  }
  if (upstreamUrl !== undefined || settings !== undefined) {
    const text = settings === undefined ? null : settingsText(settings);
    await updateUpstream(tx, { accountId, apiId: id, url: upstreamUrl ?? null, settings: text });
  }
  const isPriced =
    req.callNanos !== undefined || req.rule !== undefined || req.routes !== undefined;
  if (isPriced) {
    const price = nextPrice(await readRow(tx, id), req);
    await insertPrice(tx, { ...api, apiId: id, ...price });
  }
  return { api: await readRow(tx, id), isPriced };
}

async function readRow(tx: Tx, apiId: string): Promise<ApiRow> {
  const row = await findApi(tx, apiId);
  if (row === null) {
    throw notFound("the API");
  }
  return row;
}

/** The price with what is set, the rest as it was. A new price of a call is its rule's too, where there is one. */
function nextPrice(
  row: Pick<ApiRow, "call_nanos" | "sheet">,
  req: UpdateApiRequest,
): { callNanos: bigint; sheet: string } {
  const before = parseSheet(row.sheet);
  const callNanos = req.rule?.callNanos ?? req.callNanos ?? row.call_nanos;
  const own = req.rule === undefined ? before.rule : ruleOf(req.rule);
  const rule = own === null ? undefined : ruleMessage({ ...own, callNanos });
  const routes = req.routes?.routes ?? routeMessages(before);
  refuse([
    ...checkCallNanos(req),
    ...checkSheet({ rule: req.rule ?? rule, routes }, "routes.routes"),
  ]);
  return { callNanos, sheet: sheetText(sheetOf({ rule, routes })) };
}
