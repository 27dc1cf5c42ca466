/**
 * The items, until it is refused to go on: then throws the error, and lets go of what makes them. The watch begins with
 * the first item that is asked for, and ends with the last.
 */
export async function* untilRefused<T>(
  items: AsyncIterable<T>,
  watch: (onRefused: (error: Error) => void) => () => void,
): AsyncIterable<T> {
  const iterator = items[Symbol.asyncIterator]();
  let refusal: Error | undefined;
  let refuse: ((error: Error) => void) | undefined;
  const stop = watch((error) => {
    refusal = error;
    refuse?.(error);
  });
  // Not a race: each would leave something behind at a promise that lasts as long as the stream.
  const next = () =>
    new Promise<IteratorResult<T>>((resolve, reject) => {
      refuse = reject;
      iterator.next().then(resolve, reject);
    });
  try {
    while (refusal === undefined) {
      const result = await next();
      if (result.done) {
        return;
      }
      yield result.value;
    }
    throw refusal;
  } finally {
    stop();
    // What is waiting for its next item ends once it goes on: nobody waits for that.
    void Promise.resolve(iterator.return?.()).catch(() => {});
  }
}
