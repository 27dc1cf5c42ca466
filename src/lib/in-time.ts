/** Thrown when work did not end in time. It may still go on. */
export class LateError extends Error {
  override name = "LateError";
}

/** What the work results in. Throws LateError, naming it, when that takes longer than `ms`. */
export function inTime<T>(
  work: Promise<T>,
  { ms, what }: { ms: number; what: string },
): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const error = () => new LateError(`Cannot wait for ${what}: it took more than ${ms} ms`);
  // A process that was busy first reads what has come meanwhile.
  const late = () => setImmediate(() => reject(error()));
  const timer = setTimeout(late, ms);
  work.then(resolve, reject).finally(() => clearTimeout(timer));
  return promise;
}
