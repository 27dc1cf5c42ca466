import { checkConservation } from "../conservation.ts";
import { checkArchives } from "../metering/archive-check.ts";
import type { Context } from "./context.ts";
import { withParts } from "./parts.ts";
import { formatTable } from "./table.ts";

/** Large tables are read whole, while nobody waits but whoever called. */
const statementMs = 10 * 60 * 1000;

/**
 * Check that no money was made or lost, and that the files of the journal are what was archived. Throws at the end,
 * naming the first row that is not what it was made of, else the first sums that differ, else the first file.
 */
export async function verify(context: Context): Promise<void> {
  const { archiveDir: directory } = context.config;
  const { checks, difference, watermark, archives } = await withParts(
    context,
    async ({ db, openNetwork }) => ({
      ...(await checkConservation({ db, network: await openNetwork() })),
      archives: directory === undefined ? null : await checkArchives({ db, directory }),
    }),
    { statementMs },
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
  if (archives !== null && archives.problem !== null) {
    throw new Error(`Cannot confirm the archive of the journal: ${archives.problem}`);
  }
  context.print(
    `All ${checks.length} sums agree in nano-USDC, up to journal position ${watermark}`,
  );
}
