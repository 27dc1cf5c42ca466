import { createHmac } from "node:crypto";
import type { ServiceImpl } from "@connectrpc/connect";
import type { AnalyticsService } from "../../gen/callora/analytics/v1/analytics_service_pb.ts";
import { findApi } from "../catalog/store.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { getWatermark } from "../metering/journal.ts";
import { invalidArgument, permissionDenied } from "../rpc/errors.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { parseEnd, parseStart, type Range, rangeProblem } from "./range.ts";
import {
  listTopConsumers,
  listTopEndpoints,
  sumRevenueByPeriod,
  sumUsageByApi,
  type UsageQuery,
} from "./store.ts";

const usageDaysDefault = 30;
const usageApisMax = 100;

/** The handlers of proto/callora/analytics/v1/analytics_service.proto. */
export function analyticsService(deps: {
  db: Database;
  /** Keys the pseudonyms of consumers. */
  secretKey: string;
  now: () => Date;
}): ServiceImpl<typeof AnalyticsService> {
  const { db, secretKey, now } = deps;
  return {
    async getUsage(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const range = usageRange(req, now());
      const query = { accountId, apiId: req.apiId === "" ? null : req.apiId, ...range };
      const watermark = await readWatermark(db);
      const rows = await db.tenantRead(accountId, (tx) => sumUsageByApi(tx, query));
      const total = (pick: (row: (typeof rows)[number]) => bigint) =>
        rows.reduce((sum, row) => sum + pick(row), 0n);
      return {
        calls: Number(total((row) => row.calls)),
        errors: Number(total((row) => row.errors)),
        chargedNanos: total((row) => row.charged_nanos),
        period: `${range.from.toISOString()}/${range.to.toISOString()}`,
        apis: rows.slice(0, usageApisMax).map((row) => ({
          apiId: row.api_id,
          calls: Number(row.calls),
          chargedNanos: row.charged_nanos,
        })),
        watermark,
      };
    },

    async getDeveloperAnalytics(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const range = requireRange(req);
      const query = { accountId, apiId: req.apiId === "" ? null : req.apiId, ...range };
      const unit = units[req.groupBy] ?? "day";
      const watermark = await readWatermark(db);
      return db.tenantRead(accountId, async (tx) => {
        await checkOwner(tx, query);
        const periods = await sumRevenueByPeriod(tx, query, unit);
        return {
          data: periods.map((row) => ({
            period: row.period,
            calls: Number(row.calls),
            revenue: row.revenue_nanos,
          })),
          ...(req.includeTop ? await readTop(tx, query, secretKey) : {}),
          watermark,
        };
      });
    },
  };
}

const units: Readonly<Record<string, "day" | "week" | "month">> = {
  day: "day",
  week: "week",
  month: "month",
};

/** Read before the sums, so that they hold at least what it says. */
async function readWatermark(db: Database): Promise<bigint> {
  return (await db.systemTransaction(getWatermark)).applied;
}

async function checkOwner(tx: Tx, { accountId, apiId }: UsageQuery): Promise<void> {
  if (apiId !== null && (await findApi(tx, apiId))?.account_id !== accountId) {
    throw permissionDenied("API_NOT_OWNED", "Cannot show the API: it is not one of the caller's");
  }
}

async function readTop(tx: Tx, query: UsageQuery, secretKey: string) {
  const endpoints = await listTopEndpoints(tx, query);
  const consumers = await listTopConsumers(tx, query);
  return {
    topEndpoints: endpoints.map((row) => ({ endpoint: row.name, calls: Number(row.calls) })),
    topUsers: consumers.map((row) => ({
      userId: pseudonym({ secretKey, developer: query.accountId, consumer: row.name }),
      calls: Number(row.calls),
    })),
  };
}

/** Stable for one developer, unrelated to the pseudonym that another developer sees. */
function pseudonym(of: { secretKey: string; developer: string; consumer: string }): string {
  const hmac = createHmac("sha256", of.secretKey).update(`${of.developer} ${of.consumer}`);
  return `user_${hmac.digest("hex").slice(0, 16)}`;
}

function usageRange(req: { from: string; to: string }, now: Date): Range {
  const to = req.to === "" ? now.toISOString() : req.to;
  const end = parseEnd(to);
  const start = new Date((end ?? now).getTime() - usageDaysDefault * 24 * 60 * 60 * 1000);
  return requireRange({ from: req.from === "" ? start.toISOString() : req.from, to });
}

function requireRange(req: { from: string; to: string }): Range {
  const from = parseStart(req.from);
  const to = parseEnd(req.to);
  const description = "must be an ISO date or an RFC 3339 time";
  if (from === null) {
    throw invalidArgument([{ field: "from", description }]);
  }
  if (to === null) {
    throw invalidArgument([{ field: "to", description }]);
  }
  const problem = rangeProblem({ from, to });
  if (problem !== null) {
    throw invalidArgument([{ field: "from", description: problem }]);
  }
  return { from, to };
}
