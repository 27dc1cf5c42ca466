import { type Timestamp, timestampDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { LedgerService } from "../../gen/callora/ledger/v1/ledger_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { readSnapshot } from "../db/snapshot.ts";
import { splitPage } from "../lib/page-token.ts";
import { invalidArgument } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { balanceOf, type Moved } from "./balance.ts";
import { listBalances, listEntries, type StatementEntry } from "./statements.ts";
import type { Mode } from "./store.ts";

interface Deps {
  db: Database;
  /** What an account's money had moved when the journal was applied up to a position, and no further. */
  balancesAt: (
    tx: Tx,
    of: { accountId: string; mode: Mode; position: bigint },
  ) => Promise<ReadonlyMap<string, Moved>>;
  /** The journal is applied up to this position. */
  watermark: (tx: Tx) => Promise<bigint>;
}

/** The handlers of proto/callora/ledger/v1/ledger_service.proto. */
export function ledgerService({
  db,
  balancesAt,
  watermark,
}: Deps): ServiceImpl<typeof LedgerService> {
  return {
    async listBalances({ position, test }, ctx) {
      const principal = requirePrincipal(ctx);
      const of = { accountId: principal.accountId, mode: modeOf(principal, test) };
      // The journal belongs to no account: only the server's own role reads how far it is applied.
      return db.systemTransaction(async (tx) => {
        await readSnapshot(tx);
        const moved =
          position === 0n
            ? await listBalances(tx, { ...of, upTo: null })
            : await balancesAt(tx, { ...of, position });
        return { balances: [...moved].map(toBalance), watermark: await watermark(tx) };
      });
    },

    async listEntries(req, ctx) {
      const principal = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const range = rangeOf(req);
      const applied = await db.systemTransaction(watermark);
      const { openingNanos, entries } = await db.tenantRead(principal.accountId, async (tx) => {
        await readSnapshot(tx);
        return listEntries(tx, {
          accountId: principal.accountId,
          mode: modeOf(principal, req.test),
          kind: req.kind === "" ? "consumer" : req.kind,
          ...range,
          after,
          limit: size + 1,
        });
      });
      const { page, nextPageToken } = splitPage(entries, { size, id: (entry) => entry.id });
      return { entries: page.map(toEntry), openingNanos, nextPageToken, watermark: applied };
    },
  };
}

/** A test key's caller sees test money only. */
function modeOf(principal: { mode: Mode }, test: boolean): Mode {
  return test ? "test" : principal.mode;
}

function rangeOf({
  startTime,
  endTime,
}: {
  startTime?: Timestamp | undefined;
  endTime?: Timestamp | undefined;
}): { from: Date | null; to: Date | null } {
  const from = startTime === undefined ? null : timestampDate(startTime);
  const to = endTime === undefined ? null : timestampDate(endTime);
  if (from !== null && to !== null && from > to) {
    throw invalidArgument([{ field: "end_time", description: "must not be before start_time" }]);
  }
  return { from, to };
}

function toBalance([kind, moved]: [string, Moved]) {
  return { kind, ...moved, balanceNanos: balanceOf(kind, moved) };
}

function toEntry(entry: StatementEntry) {
  return {
    transferId: entry.id,
    createTime: timestampFromMs(entry.createdAt),
    counterpartKind: entry.counterpart,
    amountNanos: entry.deltaNanos,
    balanceNanos: entry.balanceNanos,
    source: entry.source,
    position: entry.position,
  };
}
