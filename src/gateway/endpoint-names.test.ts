import { expect, test } from "vitest";
import { createEndpointNames } from "./endpoint-names.ts";

const get = (path: string, status = 200) => ({ method: "GET", path, status });

test("an endpoint has a name of its own from its first success on", () => {
  const names = createEndpointNames();

  const told = [404, 200, 500, 499, 304].map((status) => names.of("a", get("/users/42", status)));

  expect(told).toEqual(["GET /*", ...Array(4).fill("GET /users/*")]);
});

test("made-up paths make a bounded number of names, and take none from those that have one", () => {
  const names = createEndpointNames();
  names.of("a", get("/search"));
  const word = (n: number) =>
    n.toString(36).replaceAll(/\d/g, (digit) => "ghijklmnop"[+digit] ?? "");

  const made = new Set<string>();
  for (let n = 1_000; n < 3_000; n++) {
    made.add(names.of("a", get(`/x${word(n)}/${word(n * 7)}`)));
  }

  expect(made.size).toBe(100);
  expect(made).toContain("GET /*");
  expect(names.of("a", get("/search"))).toBe("GET /search");
  expect(names.of("a", { ...get("/new"), method: "POST" })).toBe("POST /*");
});

test("what one API's callers make up takes nothing from another's", () => {
  const names = createEndpointNames();
  for (let n = 0; n < 200; n++) {
    names.of("a", get(`/${"x".repeat((n % 32) + 1)}/${"y".repeat(((n / 32) | 0) + 1)}`));
  }

  expect(names.of("a", get("/z"))).toBe("GET /*");
  expect(names.of("b", get("/z"))).toBe("GET /z");
});
