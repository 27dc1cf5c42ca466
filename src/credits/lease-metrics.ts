import { Counter, Gauge, type Registry } from "prom-client";
import type { LeaseBook, LeaseStats } from "./purse.ts";

const counted = {
  topUps: ["callora_lease_top_ups_total", "Leases that got more credit"],
  waits: ["callora_lease_waits_total", "Calls that had to wait for credit to be leased"],
  lost: ["callora_leases_lost_total", "Leases that were over before they were given back"],
} satisfies Partial<Record<keyof LeaseStats, readonly [string, string]>>;

/** Show what a process leases. */
export function showLeases(registry: Registry, book: Pick<LeaseBook, "stats">): void {
  const registers = [registry];
  new Gauge({
    name: "callora_leases_open",
    help: "Leases of credit that this process holds",
    registers,
    collect() {
      this.set(book.stats().leases);
    },
  });
  for (const [key, [name, help]] of Object.entries(counted)) {
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(book.stats()[key as keyof typeof counted]);
      },
    });
  }
}
