import { checkConservation } from "../conservation.ts";
import type { Context } from "./context.ts";
import { withParts } from "./parts.ts";
import { formatTable } from "./table.ts";

/**
 * Check that no money was made or lost. Throws at the end, naming the first row that is not what it was made of, else
 * the first sums that differ.
 */
export async function verify(context: Context): Promise<void> {
  const { checks, difference, watermark } = await withParts(context, async ({ db, openNetwork }) =>
    checkConservation({ db, network: await openNetwork() }),
  );
  const rows = checks.map(({ name, leftNanos, rightNanos, ok }) => [
    name,
    `${leftNanos}`,
    `${rightNanos}`,
    ok ? "yes" : "NO",
  ]);
  const head = ["CHECK", "LEFT", "RIGHT", "OK"];
  for (const line of formatTable(head, rows, { right: ["LEFT", "RIGHT"] })) {
    context.print(line);
  }
  if (difference !== null) {
    const { where, field, stored, computed } = difference;
    throw new Error(
      `Cannot confirm the books: the first difference is at ${where}: ${field} is ${stored}, ` +
        `and should be ${computed}`,
    );
  }
  const wrong = checks.find(({ ok }) => !ok);
  if (wrong !== undefined) {
    const sums = `left is ${wrong.leftNanos}, right is ${wrong.rightNanos} nano-USDC`;
    throw new Error(`Cannot confirm "${wrong.name}": ${sums}`);
  }
  context.print(
    `All ${checks.length} sums agree in nano-USDC, up to journal position ${watermark}`,
  );
}
