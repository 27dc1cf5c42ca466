import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { ApiState } from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { parseSettings } from "./settings.ts";
import { parseSheet, sheetMessages } from "./sheet.ts";
import type { ApiRow, UpstreamRow } from "./store.ts";
import type { VersionRow } from "./version-store.ts";

/** An API as its developer sees it, with its upstream, or as everybody does, without. */
export function toApi(row: ApiRow, upstream: Partial<UpstreamRow> | null) {
  const settings = upstream?.settings ?? "";
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    updateTime: timestampFromMs(row.updated_at),
    developerAccountId: row.account_id,
    name: row.name,
    slug: row.slug,
    description: row.description,
    category: row.category,
    state: stateOf[row.state],
    price: toPrice({ ...row, version: row.price_version, created_at: row.price_created_at }),
    upstreamUrl: upstream?.url ?? "",
    ...(settings === "" ? {} : { settings: parseSettings(settings) }),
  };
}

const stateOf = {
  draft: ApiState.DRAFT,
  published: ApiState.PUBLISHED,
  unpublished: ApiState.UNPUBLISHED,
} satisfies Record<ApiRow["state"], ApiState>;

/** The state of rows. Empty: any. */
export function toRowState(state: ApiState): ApiRow["state"] | "" {
  return rowStates[state] ?? "";
}

const rowStates: Readonly<Record<number, ApiRow["state"] | "">> = {
  [ApiState.UNSPECIFIED]: "",
  [ApiState.DRAFT]: "draft",
  [ApiState.PUBLISHED]: "published",
  [ApiState.UNPUBLISHED]: "unpublished",
} satisfies Record<ApiState, ApiRow["state"] | "">;

/** A version of a price. */
export function toPrice(row: VersionRow) {
  return {
    version: row.version,
    callNanos: row.call_nanos,
    feeBasisPoints: row.fee_basis_points,
    createTime: timestampFromMs(row.created_at),
    ...sheetMessages(parseSheet(row.sheet)),
  };
}
