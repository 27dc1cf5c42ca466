/** The events of calls that were answered before they were durable. */
export interface AsyncCount {
  /** Whether another call may be answered so. */
  mayPass(): boolean;
  /** A call was answered, its event is not durable yet. */
  begin(): void;
  /** An event is durable, or (false) refused for good: lost. */
  end(isDurable: boolean): void;
  readonly pending: number;
  readonly oldestMs: number;
}

/** Count events of answered calls, up to a bound. */
export function createAsyncCount({ pendingMax }: { pendingMax: number }): AsyncCount {
  let pending = 0;
  return {
    mayPass: () => pending < pendingMax,
    begin() {
      pending += 1;
    },
    end() {
      pending -= 1;
    },
    get pending() {
      return pending;
    },
    oldestMs: 0,
  };
}
