import type { ServiceImpl } from "@connectrpc/connect";
import type { BudgetService } from "../../gen/callora/credits/v1/budget_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import { notBuilt } from "../rpc/errors.ts";

/** What the handlers of budgets are built from. */
export interface BudgetServiceDeps {
  db: Database;
  trust: Trust;
  now: () => Date;
}

/** The handlers of proto/callora/credits/v1/budget_service.proto. */
export function budgetService(_deps: BudgetServiceDeps): ServiceImpl<typeof BudgetService> {
  return {
    async listBudgets() {
      throw notBuilt("BudgetService/ListBudgets");
    },

    async putBudget() {
      throw notBuilt("BudgetService/PutBudget");
    },

    async deleteBudget() {
      throw notBuilt("BudgetService/DeleteBudget");
    },

    async getAlert() {
      throw notBuilt("BudgetService/GetAlert");
    },

    async setAlert() {
      throw notBuilt("BudgetService/SetAlert");
    },
  };
}
