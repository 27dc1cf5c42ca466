import { badRequest } from "./http.ts";

/** Which part of a list is asked for. */
export type PageQuery = {
  /** Exclusive; null means from the beginning of the order. */
  cursor: bigint | null;
  isDescending: boolean;
  limit: number;
};

const limitDefault = 10;
const limitMax = 200;
/** Larger than every paging token. */
const endCursor = 2n ** 63n - 1n;

/** Name a ledger, a transaction (order from 1) or an operation (index from 1) in all of history. */
export function pagingToken(ledger: number, order = 0, operation = 0): bigint {
  return (BigInt(ledger) << 32n) | (BigInt(order) << 12n) | BigInt(operation);
}

/** Read `cursor`, `limit` and `order`. Throws a problem when one is wrong. */
export function parsePageQuery(query: URLSearchParams): PageQuery {
  const order = query.get("order") || "asc";
  if (order !== "asc" && order !== "desc") throw badRequest("order", "must be asc or desc");
  const limitText = query.get("limit") || String(limitDefault);
  const limit = /^\d{1,4}$/.test(limitText) ? Number(limitText) : 0;
  if (limit < 1 || limit > limitMax) {
    throw badRequest("limit", `must be a number from 1 to ${limitMax}`);
  }
  const cursor = query.get("cursor") || null;
  if (cursor !== null && cursor !== "now" && !/^\d{1,19}$/.test(cursor)) {
    throw badRequest("cursor", "must be a paging token or now");
  }
  const isDescending = order === "desc";
  if (cursor === null) return { cursor, isDescending, limit };
  return { cursor: cursor === "now" ? endCursor : BigInt(cursor), isDescending, limit };
}

/** Take a page of a list that ascends by token, leaving out what `isWanted` refuses. */
export function takePage<T>(
  list: { length: number; at(index: number): T | undefined },
  tokenOf: (item: T) => bigint,
  { query, isWanted }: { query: PageQuery; isWanted: (item: T) => boolean },
): T[] {
  const { cursor, isDescending, limit } = query;
  const step = isDescending ? -1 : 1;
  const page: T[] = [];
  let index = startIndex(list, tokenOf, query);
  for (; index >= 0 && index < list.length && page.length < limit; index += step) {
    const item = list.at(index);
    if (item === undefined) break;
    if (cursor !== null && tokenOf(item) === cursor) continue;
    if (isWanted(item)) page.push(item);
  }
  return page;
}

/** Wrap records with links to the pages around them. */
export function pageJson<R extends { paging_token: string }>(
  records: readonly R[],
  { url, query }: { url: URL; query: PageQuery },
): object {
  const link = (cursor: string, order: string) => {
    const target = new URL(url);
    target.searchParams.set("cursor", cursor);
    target.searchParams.set("limit", String(query.limit));
    target.searchParams.set("order", order);
    return { href: target.href };
  };
  const asked = url.searchParams.get("cursor") ?? "";
  const order = query.isDescending ? "desc" : "asc";
  const reverse = query.isDescending ? "asc" : "desc";
  return {
    _links: {
      self: { href: url.href },
      next: link(records.at(-1)?.paging_token ?? asked, order),
      prev: link(records[0]?.paging_token ?? asked, reverse),
    },
    _embedded: { records },
  };
}

/** First item at or after the cursor when ascending, last item at or before it when descending. */
function startIndex<T>(
  list: { length: number; at(index: number): T | undefined },
  tokenOf: (item: T) => bigint,
  { cursor, isDescending }: PageQuery,
): number {
  if (cursor === null) return isDescending ? list.length - 1 : 0;
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const item = list.at(middle);
    if (item !== undefined && tokenOf(item) < cursor) low = middle + 1;
    else high = middle;
  }
  if (!isDescending) return low;
  const item = list.at(low);
  return low < list.length && item !== undefined && tokenOf(item) === cursor ? low : low - 1;
}
