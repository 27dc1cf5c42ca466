import { sql } from "slonik";
import { lockLeases } from "../credits/leases.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { lockBalances } from "../ledger/store.ts";
import { type ApplyOptions, applyUsage, leasesOf } from "./apply.ts";
import { attempt } from "./attempt.ts";
import { findRefused, type Refusal } from "./bisect.ts";
import { earningBalances, payingBalances } from "./charge.ts";
import type { Candidate, Decision } from "./decide.ts";
import type { Batch } from "./projections.ts";

type Options = Omit<ApplyOptions, "trial">;

/** Apply usage as a whole. A refusal: the database or the code refused it for good, and nothing of it is there. */
export function tryUsage(
  tx: Tx,
  batch: Batch,
  candidates: readonly Candidate[],
  options: Options,
): Promise<{ decision: Decision } | Refusal> {
  const work = () => applyUsage(tx, batch, candidates, { ...options, trial: "" });
  return attempt(tx, "usage", work).then((tried) =>
    "done" in tried ? { decision: tried.done } : tried,
  );
}

/**
 * Apply usage around the entries that are refused for good. Returns these too, with the reason.
 *
 * Groups are tried until each refused entry is found; then all of that is undone, and the rest is applied at once, as
 * if the refused ones had never been there.
 */
export async function applyAround(
  tx: Tx,
  batch: Batch,
  candidates: readonly Candidate[],
  options: Options,
): Promise<{ decision: Decision; poisoned: { item: Candidate; refusal: Refusal }[] }> {
  // All at once, before the groups lock theirs: leases before balances, and these in the order of everybody.
  await lockLeases(tx, leasesOf(candidates));
  const keys = [...(await payingBalances(candidates, () => 0n)), ...earningBalances(candidates)];
  if (keys.length > 0) {
    await lockBalances(tx, keys);
  }
  await run(tx, sql.type(nothing)`savepoint search`);
  let trials = 0;
  const poisoned = await findRefused(candidates, async (group) => {
    trials += 1;
    const trial = `:${trials}`;
    const tried = await attempt(tx, "trial", () =>
      applyUsage(tx, batch, group, { ...options, trial }),
    );
    return "detail" in tried ? tried : null;
  });
  await run(tx, sql.type(nothing)`rollback to savepoint search`);
  const refused = new Set(poisoned.map(({ item }) => item));
  const rest = candidates.filter((one) => !refused.has(one));
  const decision = await applyUsage(tx, batch, rest, { ...options, trial: "" });
  return { decision, poisoned };
}

async function run(tx: Tx, statement: Parameters<Tx["query"]>[0]): Promise<void> {
  await tx.query(statement);
}
