import type { ConnectError } from "@connectrpc/connect";
import { decodePageToken } from "../lib/page-token.ts";
import { invalidArgument } from "./errors.ts";

const pageSizeDefault = 50;

/** Where a page starts and how long it is. Throws INVALID_ARGUMENT on a token that is not ours. */
export function pageOf(req: { pageSize: number; pageToken: string }): {
  size: number;
  after: string;
} {
  const after = decodePageToken(req.pageToken);
  if (after === null) {
    throw badPageToken();
  }
  return { size: req.pageSize === 0 ? pageSizeDefault : req.pageSize, after };
}

/** INVALID_ARGUMENT: a page token that is not of this list. */
export function badPageToken(): ConnectError {
  const description = "must be the next_page_token of an earlier answer";
  return invalidArgument([{ field: "page_token", description }]);
}
