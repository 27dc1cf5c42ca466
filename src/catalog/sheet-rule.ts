import { z } from "zod";

const sheetParts = z.object({
  rule: z.string(),
  routes: z.array(z.tuple([z.array(z.string()), z.string(), z.string()])),
});

/** The canonical text of a price sheet's default rule. Empty: it has none. */
export function defaultRuleText(sheet: string): string {
  return sheet === "" ? "" : sheetParts.parse(JSON.parse(sheet)).rule;
}

/**
 * The canonical text of the rule that a sheet has for an endpoint, as calls that were matched with a route are named:
 * `GET /v1/search`. That of the sheet itself when no route is named so. Empty: it has none.
 */
export function ruleTextOf(sheet: string, endpoint: string): string {
  if (sheet === "") {
    return "";
  }
  const { rule, routes } = sheetParts.parse(JSON.parse(sheet));
  const space = endpoint.indexOf(" ");
  const method = endpoint.slice(0, space);
  const fitting = routes.filter(([, path]) => path === endpoint.slice(space + 1));
  const serves = (name: string) => fitting.find(([methods]) => methods.includes(name));
  const any = fitting.find(([methods]) => methods.length === 0);
  const route = serves(method) ?? (method === "HEAD" ? serves("GET") : undefined) ?? any;
  return route?.[2] || rule;
}
