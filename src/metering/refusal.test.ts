import { expect, test } from "vitest";
import { asRefusal, isDenied } from "./refusal.ts";

const withCode = (code: string, cause?: Error) =>
  Object.assign(new Error("failed", { cause }), { code });

test.for(["22003", "23505", "54000", "P0001"])(
  "what the database refuses with %s fails again",
  (code) => {
    expect(asRefusal(withCode(code))?.detail).toContain(code);
    expect(asRefusal(withCode("UNKNOWN", withCode(code)))?.detail).toContain(code);
    expect(isDenied(withCode(code))).toBe(true);
  },
);

test.for(["40001", "53100", "57P01"])("what failed with %s may pass", (code) => {
  expect(asRefusal(withCode(code))).toBeNull();
});

test.for(["EPIPE", "EBUSY", "ECONNRESET"])(
  "after %s nobody knows what the database did",
  (code) => {
    expect(asRefusal(withCode(code))).toBeNull();
    expect(isDenied(withCode(code))).toBe(false);
  },
);
