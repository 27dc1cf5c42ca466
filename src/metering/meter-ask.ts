import { Code, ConnectError } from "@connectrpc/connect";
import { StatementCancelledError, StatementTimeoutError, sql } from "slonik";
import type { Database } from "../db/database.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { createKeyedSemaphore } from "../lib/keyed-semaphore.ts";
import { createSemaphore } from "../lib/semaphore.ts";
import { failedPrecondition, reasoned } from "../rpc/errors.ts";
import {
  type MeterQuery,
  type MeterValue,
  QueryTooLargeError,
  queryEvents,
  queryRollups,
  RecountingError,
  rangeOf,
} from "./meter-query.ts";
import type { MeterRow } from "./meter-store.ts";
import { findRemovedMs } from "./meter-void-store.ts";

/** Answers at once, and those of one account: they take connections that others need. */
const answersMax = 4;
const accountAnswersMax = 2;
/** Those of them that are counted from the events. */
const rawReadsMax = 2;
/** Questions that wait, and of one account. */
const waitersMax = 100;
const accountWaitersMax = 20;
const waitMs = 5_000;
/** An answer that takes longer is too large. */
const statementMsMax = 5_000;

/**
 * Ask a meter's sums or, when it is to be raw, the events.
 *
 * Throws FAILED_PRECONDITION with METER_ANSWER_TOO_LARGE, or METER_BUILDING while sums are counted anew; OUT_OF_RANGE
 * with EVENTS_REMOVED; BusyError.
 */
export type Ask = (row: MeterRow, query: MeterQuery, isRaw: boolean) => Promise<MeterValue[]>;

/** A few answers at once, and fewer of an account, so that questions leave room for everything else. */
export function createAsk(db: Database): Ask {
  const ofAccount = createKeyedSemaphore({
    permits: accountAnswersMax,
    waitersMax: accountWaitersMax,
    waitMs,
  });
  const ofAll = createSemaphore({ permits: answersMax, waitersMax, waitMs });
  const rawReads = createSemaphore({ permits: rawReadsMax, waitersMax, waitMs });
  async function readSums(row: MeterRow, query: MeterQuery) {
    return db.tenantRead(row.account_id, async (tx) => {
      await limitTime(tx);
      return queryRollups(tx, row, query);
    });
  }
  /** The events of the developer's side are their consumers': only the server sees both. */
  async function readEvents(row: MeterRow, query: MeterQuery) {
    const read = async (tx: Tx) => {
      await limitTime(tx);
      return queryEvents(tx, row, query);
    };
    const values = await (row.side === "developer"
      ? db.systemTransaction(read)
      : db.tenantRead(row.account_id, read));
    // Asked after the events: they may have been removed meanwhile.
    if (rangeOf(query).startMs < (await db.systemTransaction(findRemovedMs))) {
      const message = "Cannot ask the meter: events of the range are removed";
      throw reasoned(Code.OutOfRange, { reason: "EVENTS_REMOVED", message });
    }
    return values;
  }
  async function answer(row: MeterRow, query: MeterQuery, isRaw: boolean) {
    if (isRaw) {
      return rawReads.run(() => readEvents(row, query));
    }
    try {
      return await readSums(row, query);
    } catch (error) {
      if (!(error instanceof RecountingError)) {
        throw error;
      }
      return rawReads
        .run(() => readEvents(row, query))
        .catch((failure) => {
          const isHopeless =
            failure instanceof QueryTooLargeError ||
            (failure instanceof ConnectError && failure.code === Code.OutOfRange);
          throw isHopeless ? failedPrecondition("METER_BUILDING", error.message) : failure;
        });
    }
  }
  return (row, query, isRaw) =>
    ofAccount
      .run(row.account_id, () => ofAll.run(() => answer(row, query, isRaw)))
      .catch((error) => {
        throw explain(error);
      });
}

async function limitTime(tx: Tx): Promise<void> {
  await tx.query(
    sql.type(nothing)`set local statement_timeout = ${sql.literalValue(`${statementMsMax}ms`)}`,
  );
}

function explain(error: unknown): unknown {
  const reason = "METER_ANSWER_TOO_LARGE";
  if (error instanceof QueryTooLargeError) {
    return failedPrecondition(reason, error.message);
  }
  if (error instanceof StatementTimeoutError || error instanceof StatementCancelledError) {
    const seconds = statementMsMax / 1_000;
    const message = `Cannot ask the meter: the answer would take longer than ${seconds} s`;
    return failedPrecondition(reason, message);
  }
  return error;
}
