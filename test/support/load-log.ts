import { closeSync, fdatasyncSync, openSync, readFileSync, writeSync } from "node:fs";
import type { Numbered } from "./load-events.ts";

/** What a client notes before it sends a batch, and after it was answered. Each note is on the disk when it returns. */
export interface LoadLog {
  sends(batch: number, events: readonly Numbered[]): void;
  acknowledged(batch: number): void;
  close(): void;
}

/** Open a new log. */
export function openLoadLog(file: string): LoadLog {
  const fd = openSync(file, "wx", 0o600);
  const note = (line: string) => {
    writeSync(fd, `${line}\n`);
    fdatasyncSync(fd);
  };
  return {
    sends(batch, events) {
      note(`S ${batch} ${events.map(({ n, variant }) => `${n}/${variant}`).join(" ")}`);
    },
    acknowledged: (batch) => note(`A ${batch}`),
    close: () => closeSync(fd),
  };
}

/** How often each variant of each event was sent, and how often that was acknowledged. */
export interface LoadHistory {
  sent: ReadonlyMap<number, ReadonlyMap<number, number>>;
  acknowledged: ReadonlyMap<number, ReadonlyMap<number, number>>;
}

/** Read the logs of clients that sent the same events. A line that is cut off was not noted. */
export function readLoadLogs(files: readonly string[]): LoadHistory {
  const history = { sent: new Map(), acknowledged: new Map() };
  for (const file of files) {
    readLoadLog(file, history);
  }
  return history;
}

type Counts = Map<number, Map<number, number>>;

function readLoadLog(
  file: string,
  { sent, acknowledged }: { sent: Counts; acknowledged: Counts },
): void {
  const batches = new Map<string, Numbered[]>();
  for (const line of readFileSync(file, "utf8").split("\n").slice(0, -1)) {
    const [kind, batch = "", ...events] = line.split(" ");
    if (kind === "S") {
      const parsed = events.map((text) => {
        const [n, variant] = text.split("/").map(Number);
        return { n: n ?? 0, variant: variant ?? 0 };
      });
      batches.set(batch, parsed);
      count(sent, parsed);
    } else {
      count(acknowledged, batches.get(batch) ?? []);
    }
  }
}

function count(counts: Counts, events: readonly Numbered[]): void {
  for (const { n, variant } of events) {
    const variants = counts.get(n) ?? new Map<number, number>();
    variants.set(variant, (variants.get(variant) ?? 0) + 1);
    counts.set(n, variants);
  }
}
