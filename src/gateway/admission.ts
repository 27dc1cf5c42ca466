import { maxCharge } from "../catalog/price-rule.ts";
import type { Lease, LeaseBook, Purse, Shortage } from "../credits/purse.ts";
import type { Verifier } from "../keys/verify.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import { monthOf } from "../metering/entry.ts";
import type { Journal } from "../metering/journal.ts";
import type { MonthCount, MonthUnits } from "../metering/month-units.ts";
import { permissionDenied, unauthenticated } from "../rpc/errors.ts";
import type { Principal } from "../rpc/principal.ts";
import type { Strangers } from "../rpc/strangers.ts";
import type { ApiMemory, GatewayApi, RoutePrice } from "./api.ts";
import type { AsyncCount } from "./async-count.ts";
import { answerPreflight, isPreflight, markCors } from "./cors.ts";
import type { EndpointNames } from "./endpoint-names.ts";
import {
  apiNotFound,
  creditUnknown,
  gatewayBusy,
  methodNotAllowed,
  notPassedOn,
  pathInvalid,
  routeNotFound,
  shortOfCredit,
} from "./failure.ts";
import type { HeaderFilter } from "./headers.ts";
import type { Inbound, Passing } from "./inbound.ts";
import type { Parts } from "./parts.ts";
import type { Running } from "./running.ts";
import { callMethods, isApiName, isPassable, pathOfTarget } from "./target.ts";

/** Who calls an API. */
export type KeyPrincipal = Extract<Principal, { kind: "key" }>;

/** What the gateway counts and tells. */
export interface GatewayWatch {
  /** A call failed for a reason that is not the consumer's. */
  onFailure(error: unknown, call: { apiId: string; requestId: string }): void;
  /** A reply was cut off because nothing paid for it. */
  onUnpaid(): void;
}

/** What the gateway needs. */
export interface GatewayDeps {
  readonly apis: ApiMemory;
  readonly book: Pick<LeaseBook, "purseOf">;
  readonly journal: Pick<Journal, "push">;
  readonly monthUnits: MonthUnits;
  readonly asyncCount: AsyncCount;
  readonly verifier: Pick<Verifier, "countNow" | "isAccepted">;
  /** Asked before an API is looked up that is not in memory. */
  readonly strangers: Strangers;
  readonly running: Running;
  /** What replies were read into. */
  readonly parts: Pick<Parts, "giveBack">;
  readonly filter: HeaderFilter;
  /** Of APIs without routes. */
  readonly endpoints: EndpointNames;
  readonly watch: GatewayWatch;
  readonly now: () => Date;
  /** Monotonic. */
  readonly nowMs: () => number;
}

/**
 * What has to be asked before a call is passed on, in this order: the API, the key and its class's limit, the route,
 * the credit, the key's own limits. A call that is not paid uses no quota. No promise is made for what memory tells.
 */
export class Admission {
  readonly deps: GatewayDeps;
  readonly inbound: Inbound;
  readonly passing: Passing;
  readonly startedMs: number;
  api!: GatewayApi;
  key!: KeyPrincipal;
  price!: RoutePrice;
  /** Of its route. Empty: the API has none. */
  endpoint = "";
  /** As sent, with its leading slash. */
  path = "";
  /** Null: its tiers are not those of a month. */
  month: MonthCount | null = null;
  /** Units of the month that are used before the call at least, and at most when it is the last of all to end. */
  unitsBefore = 0n;
  unitsBeforeMax = 0n;
  #isInMonth = false;
  #found: GatewayApi | null = null;
  /** Set aside before the call. */
  reserveNanos = 0n;
  purse: Purse | null = null;
  /** Null: the call cannot cost anything. */
  lease: Lease | null = null;
  readonly #begin: (admission: Admission) => void | Promise<void>;

  constructor(
    deps: GatewayDeps,
    { inbound, passing }: { inbound: Inbound; passing: Passing },
    begin: (admission: Admission) => void | Promise<void>,
  ) {
    this.deps = deps;
    this.inbound = inbound;
    this.passing = passing;
    this.startedMs = deps.nowMs();
    this.#begin = begin;
  }

  /** Ask everything, then begin the call. Throws or rejects with what the consumer is told. */
  run(): void | Promise<void> {
    const name = this.passing.bindings[0] ?? "";
    const { apis, strangers } = this.deps;
    const { exchange } = this.passing.call;
    const found = isApiName(name) ? apis.get(name, () => strangers.check(exchange)) : null;
    return found instanceof Promise
      ? found.then((api) => this.#admitLoaded(api))
      : this.#admit(found);
  }

  /** Names of APIs are asked for without a key: whoever makes them up is counted as one with made-up keys is. */
  #admitLoaded(found: GatewayApi | null): void | Promise<void> {
    if (found === null) {
      this.deps.strangers.count(this.passing.call.exchange);
    }
    return this.#admit(found);
  }

  #admit(found: GatewayApi | null): void | Promise<void> {
    const { inbound, passing } = this;
    const api = found?.isCallable === true ? found : null;
    this.#found = api;
    if (isPreflight(inbound)) {
      answerPreflight(inbound, api?.cors ?? null);
      return;
    }
    markCors(inbound, api?.cors ?? null);
    const admitted = passing.admit();
    return admitted instanceof Promise ? admitted.then(() => this.#check(api)) : this.#check(api);
  }

  #check(api: GatewayApi | null): void | Promise<void> {
    const { deps, inbound, passing } = this;
    const key = passing.call.principal;
    if (key?.kind !== "key") {
      throw unauthenticated();
    }
    if (api === null) {
      throw apiNotFound();
    }
    if (key.apiId !== null && key.apiId !== api.id) {
      const message = "Cannot call the API: the key is for another one";
      throw permissionDenied("KEY_NOT_FOR_API", message);
    }
    // The answer to TRACE would show what we send to the upstream, its credential too.
    if (inbound.method === "CONNECT" || inbound.method === "TRACE") {
      throw notPassedOn();
    }
    // Over HTTP/2 a method is any text of any length, and an event's endpoint has a limit.
    if (!callMethods.includes(inbound.method)) {
      inbound.setHeader("allow", callMethods.join(", "));
      throw methodNotAllowed();
    }
    if (deps.running.isFull) {
      throw gatewayBusy();
    }
    this.api = api;
    this.key = key;
    this.#route();
    const begun = this.#enter();
    if (!(begun instanceof Promise)) {
      return begun;
    }
    deps.running.waiting += 1;
    return begun.finally(() => {
      deps.running.waiting -= 1;
    });
  }

  #enter(): void | Promise<void> {
    const { deps, key, api } = this;
    if (this.price.rule?.span !== "month") {
      return this.#reserve();
    }
    const month = monthOf(BigInt(deps.now().getTime()) * 1_000n);
    const { accountId, mode } = key;
    const count = deps.monthUnits.of({ accountId, apiId: api.id, mode, month });
    return count instanceof Promise
      ? count.then((found) => this.#enterMonth(found), hideUnknown)
      : this.#enterMonth(count);
  }

  /** Reserve for whatever tier the call may be in once it ends: others that are under way may end before it. */
  #enterMonth(month: MonthCount): void | Promise<void> {
    const { least, most } = month.begin(this.price.rule?.unitsMax ?? 0n);
    this.month = month;
    this.unitsBefore = least;
    this.unitsBeforeMax = most;
    this.#isInMonth = true;
    const leave = (error: unknown) => {
      this.leaveMonth();
      throw error;
    };
    try {
      return this.#reserve()?.catch(leave);
    } catch (error) {
      return leave(error);
    }
  }

  /** The call is under way no more, as far as its month is concerned. */
  leaveMonth(): void {
    if (this.#isInMonth) {
      this.#isInMonth = false;
      this.month?.end(this.price.rule?.unitsMax ?? 0n);
    }
  }

  #route(): void {
    const { inbound, api } = this;
    const path = pathOfTarget(inbound.url);
    if (!isPassable(path, this.passing.query)) {
      throw pathInvalid();
    }
    const match = api.match(inbound.method, path);
    switch (match.kind) {
      case "unknown":
        throw routeNotFound();
      case "ambiguous":
        throw pathInvalid();
      case "method":
        inbound.setHeader("allow", match.allow.join(", "));
        throw methodNotAllowed();
      case "match":
        this.path = path;
        this.price = match.value;
        this.endpoint = match.endpoint;
    }
  }

  /** For the error of a call that was refused before its route was looked for: its price, and what is left to its payer. */
  recall(): void {
    const { deps, inbound, passing } = this;
    const { principal: key } = passing.call;
    const api = this.#found;
    const price: RoutePrice | undefined = this.price;
    if (key?.kind !== "key" || api === null || price !== undefined) {
      return;
    }
    const match = api.match(inbound.method, pathOfTarget(inbound.url));
    if (match.kind !== "match" || (key.apiId !== null && key.apiId !== api.id)) {
      return;
    }
    this.price = match.value;
    try {
      const purse = deps.book.purseOf(key);
      if (purse instanceof Promise) {
        purse.catch(() => {});
      } else {
        this.purse = purse;
      }
    } catch {
      // Nobody knows what is left.
    }
  }

  #reserve(): void | Promise<void> {
    const { rule, pinned } = this.price;
    const { unitsBefore, unitsBeforeMax } = this;
    this.reserveNanos =
      rule === null ? pinned.unitNanos : maxCharge(rule, unitsBefore, unitsBeforeMax);
    const purse = this.#purse();
    return purse instanceof Promise
      ? purse.then((found) => this.#take(found), hideUnknown)
      : this.#take(purse);
  }

  #purse(): MaybePromise<Purse> {
    return this.deps.book.purseOf(this.key);
  }

  #take(purse: Purse): void | Promise<void> {
    this.purse = purse;
    if (this.reserveNanos === 0n) {
      return this.#count();
    }
    const lease = purse.take(this.reserveNanos);
    if (lease !== null) {
      this.lease = lease;
      return this.#count();
    }
    return purse.ask(this.reserveNanos).then((answer) => this.#leased(answer), hideUnknown);
  }

  #leased(answer: Lease | Shortage): void | Promise<void> {
    if ("availableNanos" in answer) {
      throw shortOfCredit(this.reserveNanos, answer);
    }
    this.lease = answer;
    return this.#count();
  }

  #count(): void | Promise<void> {
    try {
      const counted = this.deps.verifier.countNow(this.key, this.passing.call.exchange);
      if (counted instanceof Promise) {
        return counted.then(
          () => this.#begin(this),
          (error) => this.#refuse(error),
        );
      }
    } catch (error) {
      this.#refuse(error);
    }
    return this.#begin(this);
  }

  #refuse(error: unknown): never {
    this.lease?.release(this.reserveNanos);
    throw error;
  }
}

/** Whoever cannot pay now, since nobody knows what there is, may try again. */
function hideUnknown(error: unknown): never {
  const unknown = creditUnknown();
  unknown.cause = error;
  throw unknown;
}
