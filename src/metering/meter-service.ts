import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  CreateMeterResponseSchema,
  type MeterService,
  Aggregation as ShownAggregation,
  MeterSide as ShownSide,
  MeterState as ShownState,
  WindowSize,
} from "../../gen/callora/metering/v1/meter_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { alreadyExists, failedPrecondition, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { getWatermark } from "./journal.ts";
import { createAsk } from "./meter-ask.ts";
import { definitionFrom, queryFrom } from "./meter-request.ts";
import {
  countMeters,
  deleteMeter,
  findMeter,
  insertMeter,
  listMeters,
  lockMeters,
  type MeterRow,
} from "./meter-store.ts";

/** Meters that an account may have: each is counted with every event. */
const metersMax = 50;

interface Deps {
  db: Database;
  /** Told when there is a meter to build, or to clear away. */
  wakeBuilder: () => void;
  now: () => Date;
}

/** The handlers of proto/callora/metering/v1/meter_service.proto. */
export function meterService({ db, wakeBuilder, now }: Deps): ServiceImpl<typeof MeterService> {
  const ask = createAsk(db);
  return {
    async createMeter(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const definition = definitionFrom(req);
      const retry = retryOf(ctx);
      const response = await db.tenantTransaction(tenant, (tx, audit) => {
        const scope = { accountId, retry, response: CreateMeterResponseSchema, audit };
        return once(tx, scope, async () => {
          const id = newId("mtr", now());
          await lockMeters(tx, accountId);
          await refuseTooMany(tx, accountId);
          if (!(await insertMeter(tx, { ...definition, accountId, id, slug: req.slug }, now()))) {
            const message = `Cannot create the meter: slug "${req.slug}" is taken`;
            throw alreadyExists("SLUG_TAKEN", message);
          }
          audit.record(`meter:${id}`);
          return { meter: toMeter(await readMeter(tx, accountId, id)) };
        });
      });
      wakeBuilder();
      return response;
    },

    async getMeter({ meterId }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const row = await db.tenantRead(accountId, (tx) => readMeter(tx, accountId, meterId));
      return { meter: toMeter(row) };
    },

    async listMeters(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const rows = await db.tenantRead(accountId, (tx) =>
        listMeters(tx, { accountId, after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { meters: page.map(toMeter), nextPageToken };
    },

    async deleteMeter({ meterId }, ctx) {
      const tenant = requireTenant(ctx);
      await db.tenantTransaction(tenant, async (tx, audit) => {
        if (!(await deleteMeter(tx, tenant.accountId, meterId))) {
          throw notFound("the meter");
        }
        audit.record(`meter:${meterId}`);
      });
      wakeBuilder();
      return {};
    },

    async queryMeter(req, ctx) {
      const { accountId, mode } = requirePrincipal(ctx);
      const row = await db.tenantRead(accountId, (tx) => readMeter(tx, accountId, req.meterId));
      const query = queryFrom(req, { groups: row.groups, mode });
      if (row.state === "building") {
        const message = "Cannot ask the meter: it still counts what was there before it";
        throw failedPrecondition("METER_BUILDING", message);
      }
      // Read before the sums, so that they hold at least what it says.
      const { applied } = await db.systemTransaction(getWatermark);
      const isRaw = req.windowSize === WindowSize.MINUTE;
      const values = await ask(row, query, isRaw);
      const names = req.groupBy;
      return {
        values: values.map(({ window, texts, ...value }) => ({
          ...value,
          startTime: timestampFromMs(window.startMs),
          endTime: timestampFromMs(window.endMs),
          groups: Object.fromEntries(names.map((name, index) => [name, texts[index] ?? ""])),
        })),
        watermark: applied,
      };
    },
  };
}

async function refuseTooMany(tx: Tx, accountId: string): Promise<void> {
  if ((await countMeters(tx, accountId)) >= metersMax) {
    const message = `Cannot create the meter: the account has ${metersMax}`;
    throw failedPrecondition("METERS_EXHAUSTED", message);
  }
}

/** Throws NOT_FOUND when the account has no such meter. */
async function readMeter(tx: Tx, accountId: string, id: string): Promise<MeterRow> {
  const row = await findMeter(tx, accountId, id);
  if (row === null) {
    throw notFound("the meter");
  }
  return row;
}

const shownAggregations = {
  sum: ShownAggregation.SUM,
  count: ShownAggregation.COUNT,
  avg: ShownAggregation.AVG,
  min: ShownAggregation.MIN,
  max: ShownAggregation.MAX,
  unique_count: ShownAggregation.UNIQUE_COUNT,
  latest: ShownAggregation.LATEST,
} satisfies Record<MeterRow["aggregation"], ShownAggregation>;

const shownSides = {
  consumer: ShownSide.CONSUMER,
  developer: ShownSide.DEVELOPER,
} satisfies Record<MeterRow["side"], ShownSide>;

const shownStates = {
  building: ShownState.BUILDING,
  active: ShownState.ACTIVE,
} satisfies Record<MeterRow["state"], ShownState>;

function toMeter(row: MeterRow) {
  return {
    id: row.id,
    slug: row.slug,
    aggregation: shownAggregations[row.aggregation],
    valuePath: row.value_path,
    groups: row.groups,
    filters: row.filters,
    side: shownSides[row.side],
    state: shownStates[row.state],
    createTime: timestampFromMs(row.created_at),
  };
}
