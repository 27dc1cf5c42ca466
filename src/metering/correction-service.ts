import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  AdjustEventResponseSchema,
  type CorrectionService,
  ReplayEventsResponseSchema,
  VoidEventResponseSchema,
} from "../../gen/callora/metering/v1/correction_service_pb.ts";
import type { Audit, Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { failedPrecondition, invalidArgument, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { findTarget, sumCorrections, upsertDebtLimit } from "./correction-store.ts";
import type { CorrectionEntry, Place } from "./entry.ts";
import type { Journal } from "./journal.ts";
import { toEvent } from "./look-up.ts";
import {
  differencesOf,
  entryOf,
  parsePlace,
  placeText,
  reasonWord,
  stateWord,
  toQuarantinedEvent,
} from "./quarantine-shown.ts";
import {
  closeQuarantined,
  findQuarantined,
  listQuarantined,
  lockQuarantined,
  type QuarantinedRow,
} from "./quarantine-store.ts";
import { type ReplayDeps, replayEvents } from "./replay-events.ts";
import { findEvent } from "./store.ts";

interface Deps extends ReplayDeps {
  db: Database;
  journal: Journal;
  now: () => Date;
}

/** The handlers of proto/callora/metering/v1/correction_service.proto. */
export function correctionService(deps: Deps): ServiceImpl<typeof CorrectionService> {
  const { db, journal, now } = deps;
  return {
    async listQuarantinedEvents(req) {
      const { size, after } = pageOf(req);
      const list = {
        reason: reasonWord(req.reason),
        state: stateWord(req.state),
        accountId: req.accountId,
        before: beforeOf(after),
        limit: size + 1,
      };
      const rows = await db.systemTransaction((tx) => listQuarantined(tx, list));
      const { page, nextPageToken } = splitPage(rows, { size, id: placeText });
      return { events: page.map(toQuarantinedEvent), nextPageToken };
    },

    async getQuarantinedEvent({ quarantineId }) {
      const place = parsePlace(quarantineId);
      return db.systemTransaction(async (tx) => {
        const row = await findQuarantined(tx, place);
        if (row === null) {
          throw notFound("the quarantined event");
        }
        return { event: toQuarantinedEvent(row), ...(await findOriginal(tx, row)) };
      });
    },

    async replayEvents(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const retry = retryOf(ctx);
      const answer = await db.platformTransaction(tenant, (tx, audit) =>
        once(tx, { accountId, retry, response: ReplayEventsResponseSchema, audit }, async () => ({
          position: await replayEvents(tx, req, { deps, audit, now: now() }),
        })),
      );
      journal.appended();
      return answer;
    },

    async dismissEvent({ quarantineId, reason }, ctx) {
      const place = parsePlace(quarantineId);
      return db.platformTransaction(requireTenant(ctx), async (tx, audit) => {
        const [row] = await lockQuarantined(tx, [place]);
        if (row === undefined) {
          throw notFound("the quarantined event");
        }
        if (row.state === "dismissed") {
          audit.unchanged();
          return { event: toQuarantinedEvent(row) };
        }
        if (row.state === "replayed") {
          const message = "Cannot dismiss the event: it was replayed";
          throw failedPrecondition("QUARANTINE_CLOSED", message);
        }
        await closeQuarantined(tx, [{ place, replayPosition: null }], { reason, now: now() });
        audit.record(`quarantined_event:${quarantineId}`, reason);
        return { event: toQuarantinedEvent({ ...row, state: "dismissed" }) };
      });
    },

    async voidEvent(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const retry = retryOf(ctx);
      const answer = await db.platformTransaction(tenant, (tx, audit) =>
        once(tx, { accountId, retry, response: VoidEventResponseSchema, audit }, async () => ({
          correction: await correct(tx, { ...req, kind: "void", chargedNanos: 0n }, deps, audit),
        })),
      );
      journal.appended();
      return answer;
    },

    async adjustEvent(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const retry = retryOf(ctx);
      const answer = await db.platformTransaction(tenant, (tx, audit) =>
        once(tx, { accountId, retry, response: AdjustEventResponseSchema, audit }, async () => ({
          correction: await correct(tx, { ...req, kind: "adjust" }, deps, audit),
        })),
      );
      journal.appended();
      return answer;
    },

    async setDebtLimit({ accountId, limitNanos }, ctx) {
      return db.platformTransaction(requireTenant(ctx), async (tx, audit) => {
        if (!(await deps.existingAccounts(tx, [accountId])).has(accountId)) {
          throw notFound("the account");
        }
        await upsertDebtLimit(tx, { accountId, limitNanos, now: now() });
        audit.record(`account:${accountId}`, `may owe ${limitNanos} nano-USDC`);
        return { limitNanos };
      });
    },
  };
}

/** Where a page starts. Null: at the newest. Throws INVALID_ARGUMENT on a place of another list. */
function beforeOf(after: string): Place | null {
  if (after === "") {
    return null;
  }
  if (!/^\d{1,18}\.\d{1,9}$/.test(after)) {
    throw invalidArgument([{ field: "page_token", description: "is not of this list" }]);
  }
  return parsePlace(after);
}

/** The applied event whose identity a quarantined one has, and in what they differ. */
async function findOriginal(tx: Tx, row: QuarantinedRow) {
  const entry = entryOf(row);
  if (entry === null) {
    return {};
  }
  const { account: accountId, source, id } = entry;
  const [original, applied] = [
    await findEvent(tx, { accountId, source, id }),
    await findTarget(tx, entry),
  ];
  if (original === null || applied === null) {
    return {};
  }
  const differences = "correctionId" in entry ? [] : differencesOf(entry, applied.entry);
  return { original: toEvent(original), differences };
}

/** Append a correction of an applied event to the journal. Returns it, not yet applied. */
async function correct(
  tx: Tx,
  wanted: {
    kind: CorrectionEntry["kind"];
    accountId: string;
    source: string;
    id: string;
    chargedNanos: bigint;
    reason: string;
  },
  { journal, now }: Deps,
  audit: Audit,
) {
  const { kind, accountId: account, source, id, chargedNanos, reason } = wanted;
  const target = await findTarget(tx, { account, source, id });
  if (target === null) {
    throw notFound("the event");
  }
  const before = await sumCorrections(tx, { accountId: account, place: target.place });
  if (before.isVoided) {
    const message = "Cannot correct the event: it was taken back before";
    throw failedPrecondition("EVENT_VOIDED", message);
  }
  const createTime = now();
  const correctionId = newId("cor", createTime);
  const entry = { kind, account, source, id, correctionId, adjustedNanos: chargedNanos, reason };
  await journal.appendIn(tx, [entry]);
  const deltaNanos = chargedNanos - target.entry.chargedNanos - before.deltaNanos;
  audit.record(`usage_event:${account}:${placeText(target.place)}`, `${correctionId}: ${reason}`);
  return {
    id: correctionId,
    void: kind === "void",
    deltaNanos,
    reason,
    createTime: timestampFromDate(createTime),
  };
}
