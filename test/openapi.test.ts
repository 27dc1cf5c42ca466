import { Validator } from "@seriousme/openapi-schema-validator";
import { expect, test } from "vitest";
import { describeApi } from "../src/openapi.ts";
import { listRoutes } from "../src/routes.ts";

const methodsOfAny = ["get", "put", "post", "delete", "patch"];

test("the document that is served is valid OpenAPI 3.1", async () => {
  const { valid, errors } = await new Validator().validate(structuredClone(describeApi()));

  expect(errors ?? []).toEqual([]);
  expect(valid).toBe(true);
});

test("every route that people call is described under its path, with its access", async () => {
  const { paths } = describeApi();
  const described = (await listRoutes()).filter(
    ({ path, rpc }) => !(rpc !== "" && path === `/${rpc}`) && !isDescription(path),
  );

  expect(described.length).toBeGreaterThan(30);
  for (const { method, path, access, rateClass } of described) {
    const item = paths[path.replace("=**}", "}")];
    for (const each of method === "*" ? methodsOfAny : [method.toLowerCase()]) {
      expect(item?.[each], `${method} ${path}`).toMatchObject({
        "x-callora-access": access,
        "x-callora-rate-class": rateClass,
      });
    }
  }
});

test("every path of sign-in says what it does", () => {
  const { paths } = describeApi();
  const mine = Object.entries(paths).filter(([path]) => path.startsWith("/api/auth/"));

  expect(mine.length).toBeGreaterThan(20);
  for (const [path, item] of mine) {
    for (const { summary } of Object.values(item ?? {}) as { summary: string }[]) {
      expect([path, /^[A-Z]/.test(summary)]).toEqual([path, true]);
    }
  }
});

// The start page, the document itself and the pages that show it.
function isDescription(path: string): boolean {
  return path === "/" || path.endsWith("/openapi.json") || /^\/(?:docs|redoc)(?:\/|$)/.test(path);
}
