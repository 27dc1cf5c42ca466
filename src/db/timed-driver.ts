import { BackendTerminatedError, type DriverFactory } from "slonik";
import { inTime, LateError } from "../lib/in-time.ts";

type Driver = Awaited<ReturnType<DriverFactory>>;
type Client = Awaited<ReturnType<Driver["createClient"]>>;

/**
 * A driver that gives a connection up on which the database takes longer than `answerMs` for an answer.
 *
 * The database ends a statement that takes too long, but only a database that is heard: a connection whose other end
 * is gone without a word would be waited for until the process ends. Whoever waits gets BackendTerminatedError.
 */
export function createTimedDriver(
  factory: DriverFactory,
  { answerMs }: { answerMs: number },
): DriverFactory {
  return async (setup) => {
    const driver = await factory(setup);
    return { createClient: async () => timed(await driver.createClient(), answerMs) };
  };
}

function timed(client: Client, answerMs: number): Client {
  let silence: BackendTerminatedError | undefined;

  async function answered<T>(work: () => Promise<T>): Promise<T> {
    if (silence !== undefined) {
      throw silence;
    }
    return inTime(work(), { ms: answerMs, what: "an answer of the database" });
  }

  /** Without waiting: it takes a while to end what does not answer. */
  function giveUp(error: Error): BackendTerminatedError {
    silence = new BackendTerminatedError(error);
    client.destroy().catch(() => {});
    return silence;
  }

  const orGiveUp = (error: unknown) => {
    throw error instanceof LateError ? giveUp(error) : error;
  };
  return {
    ...client,
    query: (...query) => answered(() => client.query(...query)).catch(orGiveUp),
    release: () => answered(() => client.release()).catch(orGiveUp),
    destroy: async () => {
      if (silence === undefined) {
        await client.destroy();
      }
    },
  };
}
