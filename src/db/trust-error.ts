/** This process cannot know what holds: its memory may be old, and the database does not answer. */
export class TrustLostError extends Error {
  override name = "TrustLostError";

  constructor(cause?: unknown) {
    super("Cannot know what holds now: the database does not answer", { cause });
  }
}
