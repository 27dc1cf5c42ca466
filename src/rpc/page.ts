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
    const description = "must be the next_page_token of an earlier answer";
    throw invalidArgument([{ field: "page_token", description }]);
  }
  return { size: req.pageSize === 0 ? pageSizeDefault : req.pageSize, after };
}
