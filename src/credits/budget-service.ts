import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  BudgetPeriod,
  BudgetScope,
  type BudgetService,
  type PutBudgetRequest,
} from "../../gen/callora/credits/v1/budget_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import type { Mode } from "../ledger/store.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { failedPrecondition, invalidArgument, notFound, permissionDenied } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal, requireTenant, requireUser } from "../rpc/principal.ts";
import { type AlertRow, findAlert, putAlert } from "./alert.ts";
import { budgetKey, budgetTopic } from "./budget-memory.ts";
import {
  type BudgetRow,
  countBudgets,
  deleteBudget,
  getBudget,
  listBudgets,
  putBudget,
} from "./budget-store.ts";

/** What the handlers of budgets are built from. */
export interface BudgetServiceDeps {
  db: Database;
  trust: Pick<Trust, "announce" | "settled">;
  /** What a budget of a member, or of a key of the account, hangs on. Null: the account has no such one. */
  findSubject: (tx: Tx, accountId: string, subjectId: string) => Promise<string | null>;
  now: () => Date;
}

/** The handlers of proto/callora/credits/v1/budget_service.proto. */
export function budgetService(deps: BudgetServiceDeps): ServiceImpl<typeof BudgetService> {
  return { ...budgetHandlers(deps), ...alertHandlers(deps) };
}

type Handlers = ServiceImpl<typeof BudgetService>;
type BudgetHandlers = Pick<Handlers, "listBudgets" | "putBudget" | "deleteBudget">;

/** Budgets of an account. */
const budgetsMax = 1_000n;

function budgetHandlers({ db, trust, findSubject, now }: BudgetServiceDeps): BudgetHandlers {
  return {
    async listBudgets(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const rows = await db.tenantRead(accountId, (tx) =>
        listBudgets(tx, { accountId, after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { budgets: page.map(toBudget), nextPageToken };
    },

    async putBudget(req, ctx) {
      requireManager(ctx);
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const { scope, mode } = checkSubject(req);
      const { row, epoch } = await db.tenantTransaction(tenant, async (tx, audit) => {
        const subjectId =
          scope === "account" ? "" : await findSubject(tx, accountId, req.subjectId);
        if (subjectId === null) {
          throw notFound(`the ${scope}`);
        }
        const time = now();
        const period = periodOf[req.period] ?? "total";
        const { limitNanos } = req;
        const budget = { accountId, id: newId("bud", time), scope, subjectId, period, mode };
        const id = await putBudget(tx, { ...budget, limitNanos }, time);
        if (id === budget.id && (await countBudgets(tx, accountId)) > budgetsMax) {
          const message = `Cannot set another budget: an account has ${budgetsMax} at most`;
          throw failedPrecondition("BUDGETS_MAX", message);
        }
        const whose = [scope, subjectId].filter((part) => part !== "").join(" ");
        audit.record(`budget:${id}`, `${whose}: ${limitNanos} nano-USDC, ${period} (${mode})`);
        const row = await getBudget(tx, accountId, id);
        return { row, epoch: await trust.announce(tx, budgetTopic, [budgetKey(accountId, mode)]) };
      });
      await trust.settled(epoch);
      return { budget: toBudget(row) };
    },

    async deleteBudget({ budgetId: id }, ctx) {
      requireManager(ctx);
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const epoch = await db.tenantTransaction(tenant, async (tx, audit) => {
        const deleted = await deleteBudget(tx, { accountId, id }, now());
        if (deleted === null) {
          throw notFound("the budget");
        }
        if (deleted.wasDeleted) {
          audit.unchanged();
          return null;
        }
        audit.record(`budget:${id}`);
        return trust.announce(tx, budgetTopic, [budgetKey(accountId, deleted.mode)]);
      });
      if (epoch !== null) {
        await trust.settled(epoch);
      }
      return {};
    },
  };
}

function alertHandlers({ db }: BudgetServiceDeps): Pick<Handlers, "getAlert" | "setAlert"> {
  return {
    async getAlert({ test }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const mode = modeOf(test);
      const row = await db.tenantRead(accountId, (tx) => findAlert(tx, { accountId, mode }));
      return { alert: toAlert(row, test) };
    },

    async setAlert({ thresholdNanos, test }, ctx) {
      requireManager(ctx);
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const mode = modeOf(test);
      const row = await db.tenantTransaction(tenant, async (tx, audit) => {
        audit.record(`account:${accountId}`, `below ${thresholdNanos} nano-USDC (${mode})`);
        return putAlert(tx, { accountId, mode, thresholdNanos });
      });
      return { alert: toAlert(row, test) };
    },
  };
}

/** Else a member could lift the budget that is his own. */
function requireManager(ctx: Parameters<typeof requireUser>[0]): void {
  const { memberRole } = requireUser(ctx);
  if (memberRole !== "owner" && memberRole !== "admin") {
    const message = "Cannot change what may be spent: only owners and admins of the account may";
    throw permissionDenied("MEMBER_ROLE", message);
  }
}

const scopeOf: Readonly<Record<number, BudgetRow["scope"]>> = {
  [BudgetScope.ACCOUNT]: "account",
  [BudgetScope.MEMBER]: "member",
  [BudgetScope.KEY]: "key",
};

const shownScopeOf = {
  account: BudgetScope.ACCOUNT,
  member: BudgetScope.MEMBER,
  key: BudgetScope.KEY,
} satisfies Record<BudgetRow["scope"], BudgetScope>;

const periodOf: Readonly<Record<number, BudgetRow["period"]>> = {
  [BudgetPeriod.TOTAL]: "total",
  [BudgetPeriod.DAY]: "day",
  [BudgetPeriod.MONTH]: "month",
};

const shownPeriodOf = {
  total: BudgetPeriod.TOTAL,
  day: BudgetPeriod.DAY,
  month: BudgetPeriod.MONTH,
} satisfies Record<BudgetRow["period"], BudgetPeriod>;

const subjectPrefix = { account: "", member: "usr_", key: "key_" } satisfies Record<
  BudgetRow["scope"],
  string
>;

/** Throws INVALID_ARGUMENT when the subject is not of the scope's kind. */
function checkSubject(req: PutBudgetRequest): { scope: BudgetRow["scope"]; mode: Mode } {
  const scope = scopeOf[req.scope] ?? "account";
  const prefix = subjectPrefix[scope];
  const isRight = prefix === "" ? req.subjectId === "" : req.subjectId.startsWith(prefix);
  if (!isRight) {
    const description = prefix === "" ? "must be empty" : `must begin with ${prefix}`;
    throw invalidArgument([{ field: "subject_id", description }]);
  }
  return { scope, mode: modeOf(req.test) };
}

function modeOf(test: boolean): Mode {
  return test ? "test" : "live";
}

function toBudget(row: BudgetRow) {
  const start = timestampFromMs(Number(row.period_start_ms));
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    updateTime: timestampFromMs(row.updated_at),
    scope: shownScopeOf[row.scope],
    subjectId: row.subject_id,
    period: shownPeriodOf[row.period],
    limitNanos: row.limit_nanos,
    takenNanos: row.taken_nanos,
    ...(row.period === "total" ? {} : { periodStart: start }),
    test: row.mode === "test",
  };
}

function toAlert(row: AlertRow | null, test: boolean) {
  const toldAt = row?.told_at ?? null;
  return {
    thresholdNanos: row?.threshold_nanos ?? 0n,
    test,
    ...(toldAt === null ? {} : { tellTime: timestampFromMs(toldAt) }),
  };
}
