import { z } from "zod";
import {
  FreeOn,
  type PriceRule as PriceRuleMessage,
  TierMode,
  TierSpan,
} from "../../gen/callora/catalog/v1/price_pb.ts";
import { compilePath } from "../lib/json-path.ts";
import type { Violation } from "../rpc/errors.ts";

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

/** Reads the rules of canonical texts, as parseRule() does. */
export type RuleReader = (text: string) => PriceRule;

/** Rules that one reader remembers. */
const rememberedMax = 1_000;

/** Make a reader that reads each rule once, mostly: to read one takes longer than to rate an event. */
export function rememberRules(): RuleReader {
  const known = new Map<string, PriceRule>();
  return (text) => {
    const found = known.get(text);
    if (found !== undefined) {
      return found;
    }
    if (known.size >= rememberedMax) {
      known.clear();
    }
    const rule = parseRule(text);
    known.set(text, rule);
    return rule;
  };
}

/** The rule of a canonical text. Throws RuleError when it is none; the empty text has no rule: ask before. */
export function parseRule(text: string): PriceRule {
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
  if (!isSound(rule) || ruleText(rule) !== text) {
    throw new RuleError("Cannot read a price rule: it makes no sense, or is not canonical");
  }
  return rule;
}

/** Whether a text is a rule, or empty, which stands for none. */
export function isRuleText(text: string): boolean {
  try {
    return text === "" || parseRule(text).per > 0n;
  } catch (error) {
    if (error instanceof RuleError) {
      return false;
    }
    throw error;
  }
}

/** Whether chargeOf() gives an amount for every use, and none above the most: checkRule() demands more. */
function isSound(rule: PriceRule): boolean {
  const { tiers, per } = rule;
  const isRising = tiers.every(({ lastUnit }, index) => {
    const before = tiers[index - 1]?.lastUnit ?? 0n;
    return index === tiers.length - 1 ? lastUnit === null : lastUnit !== null && lastUnit > before;
  });
  return isRising && per > 0n && dearest(rule) <= chargeNanosMax;
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

/** The most that a rule may charge one call: 1,000 USDC. */
const chargeNanosMax = 1_000_000_000_000n;

/** What is wrong with a rule, by paths that begin with `field`. The contract's own checks were made before. */
export function checkRule(message: PriceRuleMessage, field: string): Violation[] {
  const violations: Violation[] = [];
  const refuse = (name: string, description: string) =>
    violations.push({ field: `${field}.${name}`, description });
  const { tiers, units, unitsMax } = message;
  const openAt = tiers.findIndex(({ lastUnit }) => lastUnit === 0n);
  if (tiers.length > 0 && openAt !== tiers.length - 1) {
    refuse("tiers", "the last one, and no other, must have no end");
  }
  const steps = tiers.slice(1, -1);
  if (steps.some(({ lastUnit }, index) => lastUnit <= (tiers[index]?.lastUnit ?? 0n))) {
    refuse("tiers", "each must end after the one before");
  }
  if (units === undefined) {
    if (unitsMax > 1n) {
      refuse("units_max", "must not be more than 1 where nothing is counted");
    }
  } else {
    if (tiers.length === 0) {
      refuse("tiers", "must say what units cost");
    }
    if (unitsMax === 0n) {
      refuse("units_max", "must be more than 0 where units are counted");
    }
    if (units.from.case === "jsonPath" && compilePath(units.from.value) === null) {
      refuse("units.json_path", "must be a path such as `$.usage.total_tokens`");
    }
  }
  if (violations.length === 0 && dearest(ruleOf(message)) > chargeNanosMax) {
    refuse("units_max", "one call must not cost more than 1,000 USDC");
  }
  return violations;
}

/** What no call's charge is above, whatever was used before. */
function dearest(rule: PriceRule): bigint {
  if (rule.span === "call") {
    return maxCharge(rule, 0n);
  }
  return dearestBetween(rule, { from: 1n, to: null });
}

/** What a call costs whose units are all of the dearest tier between two units. */
function dearestBetween(
  { tiers, callNanos, unitsMax, per }: PriceRule,
  { from, to }: { from: bigint; to: bigint | null },
): bigint {
  let begin = 1n;
  let most = 0n;
  for (const { lastUnit, nanos } of tiers) {
    const isWithin = (lastUnit === null || lastUnit >= from) && (to === null || begin <= to);
    most = isWithin && nanos > most ? nanos : most;
    begin = lastUnit === null ? begin : lastUnit + 1n;
  }
  return callNanos + ceiling(most * unitsMax, per);
}

/** Whether a call costs nothing, whatever it used. */
function isFreeOf(rule: PriceRule, { status, outcome }: Use): boolean {
  const has = (bit: number) => (rule.free & bit) !== 0;
  switch (outcome) {
    case "failed":
      return true;
    case "timed_out":
      return has(freeBits.timeout);
    case "consumer_left":
      return has(freeBits.consumerLeft);
    case "whole":
    case "no_units":
      return status >= 500 ? has(freeBits.serverError) : status >= 400 && has(freeBits.clientError);
  }
}

/** What a use costs. What it comes to is rounded up once, not tier by tier. */
export function chargeOf(rule: PriceRule, use: Use): Charge {
  if (isFreeOf(rule, use)) {
    return { nanos: 0n, isFree: true, tiers: [] };
  }
  const units = use.outcome === "no_units" ? 0n : smaller(use.units, rule.unitsMax);
  const tiers = tiersOf(rule, units, rule.span === "month" ? use.unitsBefore : 0n);
  const nanos = tiers.reduce((sum, { amountNanos }) => sum + amountNanos, rule.callNanos);
  return { nanos, isFree: false, tiers };
}

function tiersOf(rule: PriceRule, units: bigint, before: bigint): Charge["tiers"] {
  const tiers: Charge["tiers"] = [];
  const isVolume = rule.mode === "volume";
  let left = units;
  let at = before;
  /** In nano-USDC for `per` units. */
  let sum = 0n;
  for (const { lastUnit, nanos } of rule.tiers) {
    const isBehind = lastUnit !== null && lastUnit < (isVolume ? before + units : at + 1n);
    if (isBehind) {
      continue;
    }
    if (left === 0n) {
      break;
    }
    const taken = isVolume || lastUnit === null ? left : smaller(left, lastUnit - at);
    const next = sum + taken * nanos;
    tiers.push({
      fromUnit: at + 1n,
      units: taken,
      unitNanos: nanos,
      amountNanos: ceiling(next, rule.per) - ceiling(sum, rule.per),
    });
    sum = next;
    at += taken;
    left -= taken;
  }
  return tiers;
}

/**
 * The most that a call can cost: never less than chargeOf() of a use with `unitsBefore`, or with any other number of units
 * up to `unitsBeforeMax`.
 */
export function maxCharge(
  rule: PriceRule,
  unitsBefore: bigint,
  unitsBeforeMax: bigint = unitsBefore,
): bigint {
  if (rule.span === "month" && unitsBeforeMax > unitsBefore) {
    return dearestBetween(rule, { from: unitsBefore + 1n, to: unitsBeforeMax + rule.unitsMax });
  }
  const before = rule.span === "month" ? unitsBefore : 0n;
  const chargeFor = (units: bigint) =>
    tiersOf(rule, units, before).reduce((sum, one) => sum + one.amountNanos, rule.callNanos);
  let most = chargeFor(rule.unitsMax);
  if (rule.mode === "volume") {
    // A cheaper tier may begin just before the most units: then the last ones of a dearer tier cost more.
    for (const { lastUnit } of rule.tiers) {
      if (lastUnit !== null && lastUnit > before && lastUnit - before < rule.unitsMax) {
        const atEnd = chargeFor(lastUnit - before);
        most = atEnd > most ? atEnd : most;
      }
    }
  }
  return most;
}

function smaller(left: bigint, right: bigint): bigint {
  return left < right ? left : right;
}

function ceiling(value: bigint, by: bigint): bigint {
  return (value + by - 1n) / by;
}
