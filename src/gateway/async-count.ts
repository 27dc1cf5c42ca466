import { Counter, Gauge, type Registry } from "prom-client";

/** The events of calls that were answered before they were durable. */
export interface AsyncCount {
  /** Whether another call may be answered so. */
  mayPass(): boolean;
  /** A call was answered, its event is not durable yet. */
  begin(): void;
  /** An event is durable, or (false) refused for good: lost. */
  end(isDurable: boolean): void;
  readonly pending: number;
  /** How long the oldest has been pending. */
  readonly oldestMs: number;
  /** How many were lost so far. */
  readonly lost: number;
}

/** When the oldest is pending for longer, calls wait: the database is slow or away. */
const oldestMsMax = 250;

/** Count events of answered calls, up to a bound. */
export function createAsyncCount({ pendingMax }: { pendingMax: number }): AsyncCount {
  // Events become durable in the order in which they came: the first to end is taken for the oldest.
  let begun: number[] = [];
  let ended = 0;
  let lost = 0;

  function oldestMs(): number {
    const oldest = begun[ended];
    return oldest === undefined ? 0 : performance.now() - oldest;
  }

  return {
    mayPass: () => begun.length - ended < pendingMax && oldestMs() <= oldestMsMax,
    begin() {
      begun.push(performance.now());
    },
    end(isDurable) {
      lost += isDurable ? 0 : 1;
      ended = Math.min(ended + 1, begun.length);
      if (ended === begun.length) {
        begun = [];
        ended = 0;
      } else if (ended >= pendingMax) {
        begun = begun.slice(ended);
        ended = 0;
      }
    },
    get pending() {
      return begun.length - ended;
    },
    get oldestMs() {
      return oldestMs();
    },
    get lost() {
      return lost;
    },
  };
}

/** Show how many events are pending, and were lost. */
export function showAsyncCount(registry: Registry, count: AsyncCount): void {
  const registers = [registry];
  new Gauge({
    name: "callora_gateway_async_pending",
    help: "Events of answered calls that are not durable yet",
    registers,
    collect() {
      this.set(count.pending);
    },
  });
  new Counter({
    name: "callora_gateway_async_lost_total",
    help: "Events of answered calls that could not be made durable",
    registers,
    collect() {
      this.reset();
      this.inc(count.lost);
    },
  });
}
