import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";

const planRow = z.object({
  id: z.string(),
  name: z.string(),
  description: z.string(),
  price_nanos: z.bigint(),
  credit_nanos: z.bigint(),
  bonus_nanos: z.bigint(),
});

/** Credit on sale. */
export type PlanRow = z.infer<typeof planRow>;

const planColumns = sql.fragment`id, name, description, price_nanos, credit_nanos, bonus_nanos`;

/** List up to 100 plans on sale, the smallest first. */
export function listPlans(db: Queries): Promise<readonly PlanRow[]> {
  return db.any(sql.type(planRow)`
    select ${planColumns} from credit_plans where active order by rank, id limit 100
  `);
}

/** Find a plan that is on sale. */
export function findPlan(db: Queries, id: string): Promise<PlanRow | null> {
  return db.maybeOne(sql.type(planRow)`
    select ${planColumns} from credit_plans where id = ${id} and active
  `);
}
