const activeType = /^(?:text\/html|text\/xml|text\/xsl|application\/xml|[^;]*\+xml)\s*(?:;|$)/i;

/**
 * Headers for raw bytes of a type that a browser would run scripts of, under our own origin: the page is
 * put in a sandbox, where it can run nothing and reach nobody. None for other types.
 */
export function sandboxHeaders(contentType: string): Readonly<Record<string, string>> {
  return activeType.test(contentType.trim()) ? sandbox : {};
}

const sandbox = {
  "content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
};
