import { hash } from "node:crypto";

/**
 * The tag of a reply's body, for its next reader to ask whether it has changed.
 *
 * A weak one: the reply may be compressed, and a strong tag would be of its very bytes.
 */
export function entityTag(body: string): string {
  return `W/"${hash("sha256", body, "base64url").slice(0, 22)}"`;
}

const headerLengthMax = 4_096;

/** Whether an If-None-Match header names the tag. Compared weakly, as it has to be. A broken header names nothing. */
export function namesTag(ifNoneMatch: string | undefined, tag: string): boolean {
  if (ifNoneMatch === undefined || ifNoneMatch.length > headerLengthMax) {
    return false;
  }
  const list = ifNoneMatch.trim();
  if (list === "*") {
    return true;
  }
  const opaque = tag.slice("W/".length);
  const element = /\s*(?:W\/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)|\s*,/y;
  let isNamed = false;
  for (let position = 0; position < list.length; position = element.lastIndex) {
    element.lastIndex = position;
    const found = element.exec(list);
    if (found === null) {
      return false;
    }
    isNamed ||= found[1] === opaque;
  }
  return isNamed;
}
