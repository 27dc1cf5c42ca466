import type { ServiceImpl } from "@connectrpc/connect";
import type { HealthService } from "../gen/callora/health/v1/health_service_pb.ts";
import { unavailable } from "./rpc/errors.ts";

/** Something that the server needs. Throws, or takes too long, while it does not answer. */
export type Probe = (signal: AbortSignal) => Promise<void>;

const probeTimeoutMs = 2_000;

/** Whether the server can do its work, and who wants to know. */
export interface Readiness {
  /** Throws UNAVAILABLE, with reason NOT_READY, naming the part that does not answer. */
  check(): Promise<void>;
  /** What a load balancer is told without asking the parts: false once the server stops. */
  isServing(): boolean;
  stop(): void;
  onChange(listener: () => void): () => void;
}

/** Watch the parts that the server needs. */
export function createReadiness(probes: Record<string, Probe>): Readiness {
  const listeners = new Set<() => void>();
  let serving = true;
  return {
    async check() {
      if (!serving) {
        throw unavailable("NOT_READY", "Cannot take calls: the server stops");
      }
      await Promise.all(
        Object.entries(probes).map(async ([name, probe]) => {
          try {
            await withDeadline(probe);
          } catch {
            throw unavailable("NOT_READY", `Cannot take calls: the ${name} does not answer`);
          }
        }),
      );
    },
    isServing: () => serving,
    stop() {
      serving = false;
      for (const listener of listeners) {
        listener();
      }
    },
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

async function withDeadline(probe: Probe): Promise<void> {
  const signal = AbortSignal.timeout(probeTimeoutMs);
  await Promise.race([
    probe(signal),
    new Promise<never>((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    }),
  ]);
}

/** The handlers of proto/callora/health/v1/health_service.proto. */
export function healthService({
  readiness,
  version,
}: {
  readiness: Readiness;
  version: string;
}): ServiceImpl<typeof HealthService> {
  return {
    getHealth: () => ({ status: "ok", service: "callora-backend", version }),
    getLiveness: () => ({ status: "ok" }),
    async getReadiness() {
      await readiness.check();
      return { status: "ready", database: "healthy", network: "healthy" };
    },
  };
}
