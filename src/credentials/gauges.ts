import { Gauge, type Registry } from "prom-client";
import type { ResealProgress } from "./loop.ts";

/**
 * How far sealing again has come, and when it was last looked at, as metrics. Returns what is told of each round.
 *
 * Before the first round they are not there: a 0 would say that all is sealed again.
 */
export function createResealGauges(
  registry: Registry,
): (progress: ResealProgress, now: Date) => void {
  let gauges: ReturnType<typeof register> | undefined;
  return (progress, now) => {
    gauges ??= register(registry);
    gauges.left.set(progress.left);
    gauges.unreadable.set(progress.unreadable);
    gauges.roundAt.set(now.getTime() / 1000);
  };
}

function register(registry: Registry) {
  const registers = [registry];
  const left = new Gauge({
    name: "callora_credentials_to_reseal",
    help: "Credentials that another key than the first of ENCRYPTION_KEYS sealed",
    registers,
  });
  const unreadable = new Gauge({
    name: "callora_credentials_unreadable",
    help: "Credentials that were found damaged",
    registers,
  });
  const roundAt = new Gauge({
    name: "callora_credentials_last_round_timestamp_seconds",
    help: "When sealing again last finished a round",
    registers,
  });
  return { left, unreadable, roundAt };
}
