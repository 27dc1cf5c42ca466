/** Where an upstream's reply leads: to the API, as its consumer gets there, or elsewhere. */
export interface Led {
  readonly isInside: boolean;
  readonly url: string;
}

/**
 * Read the Location of an upstream's reply.
 *
 * Clients follow it with the key that they sent to us: never may it lead them to another host, which would have the key, or
 * to another API of ours, which would be paid. Null: it is no address of the web.
 */
export function readLocation(
  location: string,
  { requestUrl, baseUrl, prefix }: { requestUrl: string; baseUrl: string; prefix: string },
): Led | null {
  const url = URL.parse(location, requestUrl);
  const base = URL.parse(baseUrl);
  if (url === null || base === null || !/^https?:$/.test(url.protocol)) {
    return null;
  }
  const root = base.pathname.replace(/\/+$/, "");
  const isInside =
    url.origin === base.origin && (url.pathname === root || url.pathname.startsWith(`${root}/`));
  if (!isInside) {
    return { isInside, url: url.href };
  }
  const rest = url.pathname.slice(root.length) || "/";
  return { isInside, url: `${prefix}${rest}${url.search}${url.hash}` };
}
