const idPattern = /^[\w.:-]{1,200}$/;

/** A page token that stands for the last id of a page. */
export function encodePageToken(lastId: string): string {
  return Buffer.from(JSON.stringify(["v1", lastId])).toString("base64url");
}

/** The last id of the page before. Empty for the first page. Null when the token is not one of ours. */
export function decodePageToken(token: string): string | null {
  if (token === "") {
    return "";
  }
  try {
    const value: unknown = JSON.parse(Buffer.from(token, "base64url").toString());
    const [version, lastId, ...rest] = Array.isArray(value) ? value : [];
    const isOurs = version === "v1" && typeof lastId === "string" && rest.length === 0;
    return isOurs && idPattern.test(lastId) ? lastId : null;
  } catch {
    return null;
  }
}

/** The page and the token of the next: `rows` holds one row more than the page when there is a next. */
export function splitPage<T>(
  rows: readonly T[],
  { size, id }: { size: number; id: (row: T) => string },
): { page: readonly T[]; nextPageToken: string } {
  const page = rows.slice(0, size);
  const last = page.at(-1);
  const more = rows.length > size && last !== undefined;
  return { page, nextPageToken: more ? encodePageToken(id(last)) : "" };
}
