import { ruleText } from "./price-rule.ts";
import { parseSheet } from "./sheet.ts";

/**
 * The canonical text of the rule that a sheet's text has for an endpoint, as calls that were matched with a route are
 * named: `GET /v1/search`. That of the sheet itself when no route is named so. Empty: it has none.
 */
export function ruleTextOf(sheet: string, endpoint: string): string {
  const { rule, routes } = parseSheet(sheet);
  const space = endpoint.indexOf(" ");
  const method = endpoint.slice(0, space);
  const fitting = routes.filter(({ path }) => path === endpoint.slice(space + 1));
  const serves = (name: string) => fitting.find(({ methods }) => methods.includes(name));
  const any = fitting.find(({ methods }) => methods.length === 0);
  const route = serves(method) ?? (method === "HEAD" ? serves("GET") : undefined) ?? any;
  const found = route?.rule ?? rule;
  return found === null ? "" : ruleText(found);
}
