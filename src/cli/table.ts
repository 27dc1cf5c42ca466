/** Lay rows out in columns as wide as their longest cell. Columns named in `right` are right-aligned. */
export function formatTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  { right = [] }: { right?: readonly string[] } = {},
): string[] {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return all.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return right.includes(head[column] ?? "") ? cell.padStart(width) : cell.padEnd(width);
      })
      .join("  ")
      .trimEnd(),
  );
}
