import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { z } from "zod";
import {
  FreeOn,
  type PriceRule as PriceRuleMessage,
  PriceRuleSchema,
  type Route,
  RouteSchema,
  TierMode,
  TierSpan,
} from "../../gen/callora/catalog/v1/price_pb.ts";
import type { Violation } from "../rpc/errors.ts";
import {
  checkRule,
  freeBits,
  type PriceRule,
  parseRule,
  ruleOf,
  ruleText,
  type UnitSource,
} from "./price-rule.ts";
import { compileRoutes, RouteError } from "./routes.ts";

/** The whole price of a version. */
export interface Sheet {
  /** Null: so many nanos for each call. */
  readonly rule: PriceRule | null;
  /** Empty: every path and method. */
  readonly routes: readonly SheetRoute[];
}

/** A part of an API, and what it costs. */
export interface SheetRoute {
  /** In alphabetical order. Empty: any. */
  readonly methods: readonly string[];
  readonly path: string;
  /** Null: the sheet's own. */
  readonly rule: PriceRule | null;
}

/** Every call costs the same, and any may be made. */
export const emptySheet: Sheet = { rule: null, routes: [] };

/** Most bytes of a sheet's text. */
const sheetBytesMax = 65_536;

const sheetParts = z.object({
  rule: z.string(),
  routes: z.array(z.tuple([z.array(z.string()), z.string(), z.string()])),
});

/** The canonical text: parseSheet() gives an equal sheet back, and equal sheets have equal texts. */
export function sheetText({ rule, routes }: Sheet): string {
  if (rule === null && routes.length === 0) {
    return "";
  }
  const parts: z.input<typeof sheetParts> = {
    rule: textOf(rule),
    routes: routes.map(({ methods, path, rule: own }) => [methods.toSorted(), path, textOf(own)]),
  };
  return JSON.stringify(parts);
}

/** The sheet of a text that sheetText() made. Throws on any other. */
export function parseSheet(text: string): Sheet {
  if (text === "") {
    return emptySheet;
  }
  const { rule, routes } = sheetParts.parse(JSON.parse(text));
  return {
    rule: readRule(rule),
    routes: routes.map(([methods, path, own]) => ({ methods, path, rule: readRule(own) })),
  };
}

function textOf(rule: PriceRule | null): string {
  return rule === null ? "" : ruleText(rule);
}

function readRule(text: string): PriceRule | null {
  return text === "" ? null : parseRule(text);
}

/** What somebody sent as a sheet. */
export interface SheetMessage {
  rule: PriceRuleMessage | undefined;
  routes: readonly Route[];
}

/** The sheet of messages that passed checkSheet(). */
export function sheetOf({ rule, routes }: SheetMessage): Sheet {
  return {
    rule: rule === undefined ? null : ruleOf(rule),
    routes: routes.map(({ methods, path, price }) => ({
      methods: methods.toSorted(),
      path,
      rule: price === undefined ? null : ruleOf(price),
    })),
  };
}

/** What is wrong with rules and routes, by the request's fields: `rule`, and where its routes stand. */
export function checkSheet({ rule, routes }: SheetMessage, routesField: string): Violation[] {
  const wrong = [
    ...(rule === undefined ? [] : checkRule(rule, "rule")),
    ...routes.flatMap(({ price }, index) =>
      price === undefined ? [] : checkRule(price, `${routesField}[${index}].price`),
    ),
    ...checkRoutes(routes, routesField),
  ];
  if (wrong.length > 0) {
    return wrong;
  }
  const isLong = Buffer.byteLength(sheetText(sheetOf({ rule, routes }))) > sheetBytesMax;
  const description = `must not take more than ${sheetBytesMax} bytes, all prices together`;
  return isLong ? [{ field: routesField, description }] : [];
}

function checkRoutes(routes: readonly Route[], routesField: string): Violation[] {
  try {
    compileRoutes(routes.map(({ methods, path }) => ({ methods, path, value: null })));
    return [];
  } catch (error) {
    if (error instanceof RouteError) {
      return [{ field: `${routesField}[${error.index}].path`, description: error.reason }];
    }
    throw error;
  }
}

/** The messages of a sheet. What a developer left out is there as what it means. */
export function sheetMessages(sheet: Sheet): { rule?: PriceRuleMessage; routes: Route[] } {
  const routes = routeMessages(sheet);
  return sheet.rule === null ? { routes } : { rule: ruleMessage(sheet.rule), routes };
}

/** The messages of a sheet's routes. */
export function routeMessages({ routes }: Sheet): Route[] {
  return routes.map(({ methods, path, rule }) =>
    create(RouteSchema, {
      methods: [...methods],
      path,
      ...(rule === null ? {} : { price: ruleMessage(rule) }),
    }),
  );
}

/** The message of a rule: ruleOf() gives an equal rule back. */
export function ruleMessage(rule: PriceRule): PriceRuleMessage {
  return create(PriceRuleSchema, {
    callNanos: rule.callNanos,
    tiers: rule.tiers.map(({ lastUnit, nanos }) => ({ lastUnit: lastUnit ?? 0n, nanos })),
    tierMode: modeOf[rule.mode],
    tierSpan: spanOf[rule.span],
    unitsPerPrice: rule.per,
    unitsMax: rule.unitsMax,
    freeOn: freeOrder.filter(([bit]) => (rule.free & bit) !== 0).map(([, one]) => one),
    ...(rule.source === null ? {} : { units: sourceMessage(rule.source) }),
  });
}

const modeOf = {
  graduated: TierMode.GRADUATED,
  volume: TierMode.VOLUME,
} satisfies Record<PriceRule["mode"], TierMode>;

const spanOf = {
  call: TierSpan.CALL,
  month: TierSpan.MONTH,
} satisfies Record<PriceRule["span"], TierSpan>;

const freeOrder = [
  [freeBits.serverError, FreeOn.SERVER_ERROR],
  [freeBits.clientError, FreeOn.CLIENT_ERROR],
  [freeBits.timeout, FreeOn.TIMEOUT],
  [freeBits.consumerLeft, FreeOn.CONSUMER_LEFT],
] as const;

function sourceMessage(source: UnitSource): MessageInitShape<typeof PriceRuleSchema>["units"] {
  const { missing: missingUnits } = source;
  return "header" in source
    ? { from: { case: "responseHeader", value: source.header }, missingUnits }
    : { from: { case: "jsonPath", value: source.path }, missingUnits };
}
