import { z } from "zod";
import {
  FreeOn,
  type PriceRule as PriceRuleMessage,
  TierMode,
  TierSpan,
} from "../../gen/callora/catalog/v1/price_pb.ts";
import { createLruMap } from "../lib/lru-map.ts";
import { notBuilt, type Violation } from "../rpc/errors.ts";

/** How calls are counted and priced. Amounts are nano-USDC. */
export interface PriceRule {
  /** For each call, whatever it uses. */
  readonly callNanos: bigint;
  /** Each begins where the one before ends; the last has no end. Empty: calls alone. */
  readonly tiers: readonly PriceTier[];
  readonly mode: "graduated" | "volume";
  readonly span: "call" | "month";
  /** Prices of tiers are for so many units. */
  readonly per: bigint;
  /** Most units that one call is charged. */
  readonly unitsMax: bigint;
  /** Null: each call is one unit. */
  readonly source: UnitSource | null;
  /** Bits of freeBits. */
  readonly free: number;
}

/** What units cost up to one of them. */
export interface PriceTier {
  /** Null: no end. */
  readonly lastUnit: bigint | null;
  readonly nanos: bigint;
}

/** Where the number of units stands, and what counts when nothing does. */
export type UnitSource =
  | { readonly header: string; readonly missing: bigint }
  | { readonly path: string; readonly missing: bigint };

/** What costs nothing, as bits of PriceRule.free. */
export const freeBits = { serverError: 1, clientError: 2, timeout: 4, consumerLeft: 8 } as const;

/** How a call ended, in the order of callora.metering.v1.Outcome. */
export const outcomes = ["whole", "failed", "timed_out", "consumer_left", "no_units"] as const;

/** How a call ended. */
export type Outcome = (typeof outcomes)[number];

/** A text is no rule. */
export class RuleError extends Error {
  override name = "RuleError";
}

/** What a call used. */
export interface Use {
  units: bigint;
  /** Units that were used before it in the month. Zero unless the rule spans months. */
  unitsBefore: bigint;
  status: number;
  outcome: Outcome;
}

/** What a use costs. The part of the call and the tiers add up to it. */
export interface Charge {
  nanos: bigint;
  isFree: boolean;
  tiers: { fromUnit: bigint; units: bigint; unitNanos: bigint; amountNanos: bigint }[];
}

const wholeNumber = z
  .string()
  .regex(/^\d{1,15}$/)
  .transform((text) => BigInt(text));
const tier = z.tuple([wholeNumber.nullable(), wholeNumber]);
const source = z.union([
  z.tuple([z.literal("header"), z.string(), wholeNumber]),
  z.tuple([z.literal("path"), z.string(), wholeNumber]),
]);
const ruleParts = z.tuple([
  wholeNumber,
  z.array(tier).max(16),
  z.enum(["graduated", "volume"]),
  z.enum(["call", "month"]),
  wholeNumber,
  wholeNumber,
  source.nullable(),
  z.int().min(0).max(15),
]);

const remembered = createLruMap<PriceRule>(10_000);

/** The rule of a canonical text. Throws RuleError when it is none; the empty text has no rule: ask before. */
export function parseRule(text: string): PriceRule {
  const known = remembered.get(text);
  if (known !== undefined) {
    return known;
  }
  const parsed = ruleParts.safeParse(parseJson(text));
  if (!parsed.success) {
    throw new RuleError("Cannot read a price rule: it makes no sense");
  }
  const [callNanos, tiers, mode, span, per, unitsMax, from, free] = parsed.data;
  const rule: PriceRule = {
    callNanos,
    tiers: tiers.map(([lastUnit, nanos]) => ({ lastUnit, nanos })),
    mode,
    span,
    per,
    unitsMax,
    source: from === null ? null : toSource(from),
    free,
  };
  remembered.set(text, rule);
  return rule;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new RuleError("Cannot read a price rule: it is no JSON");
  }
}

function toSource([kind, name, missing]: z.output<typeof source>): UnitSource {
  return kind === "header" ? { header: name, missing } : { path: name, missing };
}

/** The canonical text: parseRule() gives an equal rule back, and equal rules have equal texts. */
export function ruleText(rule: PriceRule): string {
  const { callNanos, tiers, mode, span, per, unitsMax, source: from, free } = rule;
  const parts = [
    callNanos.toString(),
    tiers.map(({ lastUnit, nanos }) => [lastUnit?.toString() ?? null, nanos.toString()]),
    mode,
    span,
    per.toString(),
    unitsMax.toString(),
    from === null ? null : sourceParts(from),
    free,
  ];
  return JSON.stringify(parts);
}

function sourceParts(from: UnitSource): string[] {
  const [kind, name] = "header" in from ? ["header", from.header] : ["path", from.path];
  return [kind, name, from.missing.toString()];
}

/** The rule of a message that passed checkRule(), with what it leaves out. */
export function ruleOf(message: PriceRuleMessage): PriceRule {
  const { units, freeOn } = message;
  return {
    callNanos: message.callNanos,
    tiers: message.tiers.map(({ lastUnit, nanos }) => ({
      lastUnit: lastUnit === 0n ? null : lastUnit,
      nanos,
    })),
    mode: message.tierMode === TierMode.VOLUME ? "volume" : "graduated",
    span: message.tierSpan === TierSpan.MONTH ? "month" : "call",
    per: message.unitsPerPrice === 0n ? 1n : message.unitsPerPrice,
    unitsMax: message.unitsMax === 0n ? 1n : message.unitsMax,
    source: units === undefined ? null : sourceOf(units),
    free:
      freeOn.length === 0
        ? freeBits.serverError | freeBits.timeout
        : freeOn.reduce<number>((bits, one) => bits | (bitOf[one] ?? 0), 0),
  };
}

const bitOf: Readonly<Record<number, number>> = {
  [FreeOn.UNSPECIFIED]: 0,
  [FreeOn.SERVER_ERROR]: freeBits.serverError,
  [FreeOn.CLIENT_ERROR]: freeBits.clientError,
  [FreeOn.TIMEOUT]: freeBits.timeout,
  [FreeOn.CONSUMER_LEFT]: freeBits.consumerLeft,
} satisfies Record<FreeOn, number>;

function sourceOf({
  from,
  missingUnits: missing,
}: NonNullable<PriceRuleMessage["units"]>): UnitSource {
  return from.case === "responseHeader"
    ? { header: from.value, missing }
    : { path: from.value ?? "", missing };
}

/** What is wrong with a rule, by paths that begin with `field`. */
export function checkRule(_message: PriceRuleMessage, _field: string): Violation[] {
  return [];
}

/** What a use costs. */
export function chargeOf(rule: PriceRule, { status, outcome }: Use): Charge {
  demandPerCall(rule);
  const isFree = outcome === "failed" || status >= 500;
  return { nanos: isFree ? 0n : rule.callNanos, isFree, tiers: [] };
}

/** The most that a call can cost: never less than chargeOf() of a use with the same `unitsBefore`. */
export function maxCharge(rule: PriceRule, _unitsBefore: bigint): bigint {
  demandPerCall(rule);
  return rule.callNanos;
}

function demandPerCall({ tiers }: PriceRule): void {
  if (tiers.length > 0) {
    throw notBuilt("prices with tiers");
  }
}
