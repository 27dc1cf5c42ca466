/** A database does not let us in. The message is one line, without the password. */
export class DatabaseConnectError extends Error {
  override name = "DatabaseConnectError";
  /** The address as it was given. */
  readonly url: string;

  constructor(url: string, cause: unknown) {
    super(`Cannot connect to the database ${shown(url)}: ${reasonOf(cause)}`, { cause });
    this.url = url;
  }
}

function shown(url: string): string {
  const parsed = URL.parse(url);
  return parsed === null ? "" : `${parsed.host}${parsed.pathname} as "${parsed.username}"`;
}

/** A host with several addresses fails once for each, and the error around those says nothing. */
function reasonOf(cause: unknown): string {
  const inner = cause instanceof AggregateError ? cause.errors[0] : cause;
  return inner instanceof Error ? (inner.message.split("\n")[0] ?? "") : String(inner);
}
