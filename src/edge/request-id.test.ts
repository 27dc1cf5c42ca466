import { expect, test } from "vitest";
import { createIds } from "./request-id.ts";

test("ids are UUIDs of version 4, and no two are alike", () => {
  const createId = createIds();

  const ids = Array.from({ length: 10_000 }, createId);

  expect(new Set(ids).size).toBe(ids.length);
  for (const id of ids) {
    expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  }
});
