/** The embedded PostgreSQL cannot do what it was asked; the message is one sentence for a person. */
export class EmbeddedPostgresError extends Error {
  override name = "EmbeddedPostgresError";
}

/** Another process has the data directory. */
export class DataDirInUseError extends EmbeddedPostgresError {
  override name = "DataDirInUseError";
}
