import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { LimitService } from "../../gen/callora/limits/v1/limit_service_pb.ts";
import type { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { splitPage } from "../lib/page-token.ts";
import { invalidArgument, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requireTenant } from "../rpc/principal.ts";
import { classOf, type RateOverrides, type Subject } from "./overrides.ts";
import {
  deleteOverride,
  listOverrides,
  type OverrideKey,
  type OverrideRow,
  upsertOverride,
} from "./store.ts";

const burstMax = 1_000_000;

/** The handlers of proto/callora/limits/v1/limit_service.proto. */
export function limitService(deps: {
  db: Database;
  overrides: RateOverrides;
  /** Find what the limits of a person or a key hang on. Null: the account has no such person or key. */
  findSubjectId: (tx: Tx, subject: Subject) => Promise<string | null>;
  now: () => Date;
}): ServiceImpl<typeof LimitService> {
  const { db, overrides, now } = deps;
  return {
    async listRateOverrides(req) {
      const { size, after } = pageOf(req);
      const list = { accountId: req.accountId, after: placeOf(after), limit: size + 1 };
      const rows = await db.systemTransaction((tx) => listOverrides(tx, list));
      const { page, nextPageToken } = splitPage(rows, { size, id: toPlace });
      return { overrides: page.map(toOverride), nextPageToken };
    },

    async setRateOverride(req, ctx) {
      const asked = keyOf(req);
      const { perMinute } = req;
      const burst = req.burst === 0 ? Math.min(perMinute, burstMax) : req.burst;
      const { row, epoch } = await db.platformTransaction(requireTenant(ctx), async (tx, audit) => {
        const subjectId = await deps.findSubjectId(tx, asked);
        if (subjectId === null) {
          throw notFound("the person or key");
        }
        const key = { ...asked, subjectId };
        audit.record(resourceOf(key), `${key.rateClass}: ${perMinute}/min, burst ${burst}`);
        return {
          row: await upsertOverride(tx, { ...key, perMinute, burst, now: now() }),
          epoch: await overrides.announce(tx, key),
        };
      });
      await overrides.settled(epoch);
      return { override: toOverride(row) };
    },

    async deleteRateOverride(req, ctx) {
      const asked = keyOf(req);
      const epoch = await db.platformTransaction(requireTenant(ctx), async (tx, audit) => {
        // Of what is gone an override may be left.
        const subjectId = (await deps.findSubjectId(tx, asked)) ?? asked.subjectId;
        const key = { ...asked, subjectId };
        if (!(await deleteOverride(tx, key))) {
          audit.unchanged();
          return null;
        }
        audit.record(resourceOf(key), key.rateClass);
        return overrides.announce(tx, key);
      });
      if (epoch !== null) {
        await overrides.settled(epoch);
      }
      return {};
    },
  };
}

const wordOf = new Map<RateClass, OverrideRow["rate_class"]>([
  [classOf.console, "console"],
  [classOf.v1, "v1"],
  [classOf.admin, "admin"],
  [classOf.monitor, "monitor"],
]);

function keyOf(req: { accountId: string; subjectId: string; rateClass: RateClass }): OverrideKey {
  const rateClass = wordOf.get(req.rateClass);
  if (rateClass === undefined) {
    throw invalidArgument([{ field: "rate_class", description: "is not counted by caller" }]);
  }
  return { accountId: req.accountId, subjectId: req.subjectId, rateClass };
}

function resourceOf({ subjectId }: OverrideKey): string {
  return `rate_override:${subjectId}`;
}

function toPlace(row: OverrideRow): string {
  return [row.account_id, row.subject_id, row.rate_class].join(":");
}

/** Where a page starts. Null: at the first. Throws INVALID_ARGUMENT on a place of another list. */
function placeOf(after: string): OverrideKey | null {
  if (after === "") {
    return null;
  }
  const [accountId = "", subjectId = "", word = ""] = after.split(":");
  const rateClass = [...wordOf.values()].find((known) => known === word);
  if (rateClass === undefined) {
    throw invalidArgument([{ field: "page_token", description: "is not of this list" }]);
  }
  return { accountId, subjectId, rateClass };
}

function toOverride(row: OverrideRow) {
  return {
    accountId: row.account_id,
    subjectId: row.subject_id,
    rateClass: classOf[row.rate_class],
    perMinute: row.per_minute,
    burst: row.burst,
    updateTime: timestampFromMs(row.updated_at),
  };
}
