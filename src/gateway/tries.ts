import type { Admission } from "./admission.ts";
import type { Target, UpstreamSet } from "./upstream.ts";

const idempotent: ReadonlySet<string> = new Set([
  "GET",
  "HEAD",
  "OPTIONS",
  "PUT",
  "DELETE",
  "QUERY",
]);

const none: readonly Target[] = [];

/** The upstreams that a call was sent to. */
export class Tries {
  /** Null: the call is echoed. */
  readonly set: UpstreamSet | null;
  /** Of the present try. */
  target: Target | null = null;
  count = 0;
  readonly #method: string;
  readonly #retries: number;
  #tried: readonly Target[] = none;

  constructor({ api, key, inbound }: Admission) {
    this.set = key.mode === "test" ? api.test : api.live;
    this.#method = inbound.method;
    this.#retries = api.retries;
  }

  /** Begin another try: on an upstream that was not tried, if there is one. Null: none can be called. */
  next(): Target | null {
    const { set } = this;
    const again = () => (this.count > 0 ? (set?.pick(none) ?? null) : null);
    const target = set?.pick(this.#tried) ?? again();
    this.target = target;
    if (target !== null) {
      this.#tried = this.count === 0 ? [target] : [...this.#tried, target];
      this.count += 1;
    }
    return target;
  }

  /** Whether a call may be sent again before its reply has begun. */
  mayRepeat({ wasBegun, isStreamed }: { wasBegun: boolean; isStreamed: boolean }): boolean {
    if (!wasBegun && this.count < 2) {
      return true;
    }
    return !isStreamed && idempotent.has(this.#method) && this.count <= this.#retries;
  }

  /** Whether an upstream that was not tried can be called. */
  hasOther(): boolean {
    return this.set?.hasOther(this.#tried) === true;
  }
}
