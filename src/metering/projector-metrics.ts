import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { ProjectorMetrics } from "./projectors.ts";

/** Count what the projectors do. */
export function createProjectorMetrics(registry: Registry): ProjectorMetrics {
  const registers = [registry];
  const entries = new Counter({
    name: "callora_projected_entries_total",
    help: "Entries of the journal that this process applied, found again or kept aside",
    labelNames: ["shard", "outcome"],
    registers,
  });
  const failures = new Counter({
    name: "callora_projector_failures_total",
    help: "Rounds that failed and are tried again",
    labelNames: ["shard"],
    registers,
  });
  const held = new Gauge({
    name: "callora_projector_held",
    help: "1 while this process applies the shard",
    labelNames: ["shard"],
    registers,
  });
  const stuck = new Gauge({
    name: "callora_projector_stuck",
    help: "1 while rounds of a single entry fail again and again: somebody has to look at the log",
    labelNames: ["shard"],
    registers,
  });
  const position = new Gauge({
    name: "callora_projector_position",
    help: "Position of the journal up to which this process applied the shard",
    labelNames: ["shard"],
    registers,
  });
  const seconds = new Histogram({
    name: "callora_projector_round_seconds",
    help: "Time of a round that applied something",
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    registers,
  });
  return {
    held(shard, isHeld) {
      held.set({ shard }, isHeld ? 1 : 0);
    },
    applied(shard, round) {
      const { events, duplicates, quarantined } = round.counts;
      entries.inc({ shard, outcome: "applied" }, events);
      entries.inc({ shard, outcome: "duplicate" }, duplicates);
      entries.inc({ shard, outcome: "quarantined" }, quarantined);
      position.set({ shard }, Number(round.position));
      seconds.observe(round.seconds);
    },
    failed(shard) {
      failures.inc({ shard });
    },
    stuck(shard, isStuck) {
      stuck.set({ shard }, isStuck ? 1 : 0);
    },
  };
}
