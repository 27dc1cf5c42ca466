import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type Health,
  type HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Status,
} from "../../gen/grpc/health/v1/health_pb.ts";
import { notFound } from "../rpc/errors.ts";

/** Whether a service answers. Undefined: there is no such service. */
export type ServingStatus = "SERVING" | "NOT_SERVING" | undefined;

/** Knows which services answer. The empty name stands for the server as a whole. */
export interface HealthSource {
  status(service: string): ServingStatus;
  /** Be told of every change. Returns how to stop being told. */
  onChange(listener: () => void): () => void;
}

/**
 * grpc.health.v1 over a source. Once `closing` is aborted nothing is serving; streams say so and
 * end, so that they do not hold up a shutdown. `services` are the names that List shows.
 */
export function healthService({
  source,
  services,
  closing,
}: {
  source: HealthSource;
  services: readonly string[];
  closing: AbortSignal;
}): ServiceImpl<typeof Health> {
  const statusOf = (service: string): ServingStatus => {
    const status = source.status(service);
    return status === "SERVING" && closing.aborted ? "NOT_SERVING" : status;
  };
  return {
    check({ service }) {
      const status = statusOf(service);
      if (status === undefined) {
        throw notFound(`service "${service}"`);
      }
      return { status: Status[status] };
    },
    list() {
      const statuses: Record<string, MessageInitShape<typeof HealthCheckResponseSchema>> = {};
      for (const service of ["", ...services]) {
        const status = statusOf(service);
        if (status !== undefined) {
          statuses[service] = { status: Status[status] };
        }
      }
      return { statuses };
    },
    async *watch({ service }, { signal }) {
      const changes = changesOf(source, [signal, closing]);
      let last: Status | undefined;
      try {
        do {
          const status = Status[statusOf(service) ?? "SERVICE_UNKNOWN"];
          if (status !== last) {
            last = status;
            yield { status };
          }
        } while (await changes.next());
        if (closing.aborted && last === Status.SERVING) {
          yield { status: Status.NOT_SERVING };
        }
      } finally {
        changes.stop();
      }
    },
  };
}

/** Waits for changes; several that come together count as one. */
function changesOf(source: HealthSource, signals: readonly AbortSignal[]) {
  let changed = false;
  let wake = () => {};
  const forget = source.onChange(() => {
    changed = true;
    wake();
  });
  const onAbort = () => wake();
  for (const signal of signals) {
    signal.addEventListener("abort", onAbort);
  }
  const isOver = () => signals.some((signal) => signal.aborted);
  return {
    /** Resolves to whether there is a change, false if a signal ended the wait. */
    async next(): Promise<boolean> {
      if (!changed && !isOver()) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      changed = false;
      return !isOver();
    },
    stop() {
      forget();
      for (const signal of signals) {
        signal.removeEventListener("abort", onAbort);
      }
    },
  };
}
