import { Gauge, type Registry } from "prom-client";
import type { ResealProgress } from "./loop.ts";

/** Register how far sealing again has come, and when it was last looked at. Returns what is told of each round. */
export function createResealGauges(
  registry: Registry,
): (progress: ResealProgress, now: Date) => void {
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
  return (progress, now) => {
    left.set(progress.left);
    unreadable.set(progress.unreadable);
    roundAt.set(now.getTime() / 1000);
  };
}
