import { expect, test } from "vitest";
import { findFault, type Use } from "./judge.ts";
import type { KnownKey } from "./known-key.ts";
import { parsePermission } from "./permission.ts";

const nowMs = 1_000_000;

const key: KnownKey = {
  hash: "00",
  id: "key_1",
  accountId: "acc_1",
  apiId: "api_1",
  mode: "live",
  isDisabled: false,
  expireAtMs: nowMs + 1,
  scopes: ["a.read"],
  allowedCidrs: ["192.0.2.0/24"],
  metadata: {},
  familyId: "key_1",
  createdBy: "usr_1",
  minuteMax: null,
  dayMax: null,
  quota: { leftMax: 3, refillAtMs: null },
  notedAtMs: 0,
};

const use: Use = {
  apiId: "api_1",
  clientIp: "192.0.2.9",
  permission: parsePermission("a.read"),
  cost: 3,
};

/** Each thing that can be wrong, in the order in which it is told, and how to make it so. */
const faults = [
  { fault: "DISABLED", key: { isDisabled: true }, use: {} },
  { fault: "EXPIRED", key: { expireAtMs: nowMs }, use: {} },
  { fault: "FORBIDDEN", key: {}, use: { apiId: "api_2" } },
  { fault: "FORBIDDEN", key: {}, use: { clientIp: "198.51.100.1" } },
  { fault: "INSUFFICIENT_PERMISSIONS", key: { scopes: ["b.read"] }, use: {} },
  { fault: "USAGE_EXCEEDED", key: {}, use: { cost: 4 } },
] as const;

test("nothing is wrong with a key that is good for the use", () => {
  expect(findFault(key, use, nowMs)).toBeNull();
});

const combinations = Array.from({ length: 2 ** faults.length - 1 }, (_, index) => {
  const wrong = faults.filter((_fault, bit) => ((index + 1) >> bit) % 2 === 1);
  return { wrong, names: wrong.map(({ fault }) => fault).join(" + ") };
});

test.for(combinations)("of $names the first is told", ({ wrong }) => {
  const bad: KnownKey = Object.assign({}, key, ...wrong.map((one) => one.key));
  const asked: Use = Object.assign({}, use, ...wrong.map((one) => one.use));

  expect(findFault(bad, asked, nowMs)).toBe(wrong[0]?.fault);
});

test.for([
  ["192.0.2.0/24", "192.0.2.255", true],
  ["192.0.2.0/24", "::ffff:192.0.2.1", true],
  ["192.0.2.0/24", "192.0.3.0", false],
  ["192.0.2.0/24", "2001:db8::1", false],
  ["192.0.2.0/24", null, false],
  ["192.0.2.0/24", "nonsense", false],
  ["2001:db8::/32", "2001:db8:1::1", true],
  ["2001:db8::/32", "2001:db9::1", false],
  ["2001:db8::/32", "192.0.2.1", false],
  ["0.0.0.0/0", "203.0.113.1", true],
] as const)("a key for %s is accepted from %s: %s", ([cidr, clientIp, accepted]) => {
  const fault = findFault({ ...key, allowedCidrs: [cidr] }, { ...use, clientIp }, nowMs);

  expect(fault).toBe(accepted ? null : "FORBIDDEN");
});

test("a key without a list is accepted from everywhere, one without an API opens all", () => {
  const open = { ...key, allowedCidrs: [], apiId: null };

  expect(findFault(open, { ...use, clientIp: null, apiId: "api_9" }, nowMs)).toBeNull();
  expect(findFault(key, { ...use, apiId: null }, nowMs)).toBeNull();
});

test.for([
  { cost: 0, leftMax: 0, refillAtMs: null, fault: null },
  { cost: 1, leftMax: 0, refillAtMs: null, fault: "USAGE_EXCEEDED" },
  { cost: 3, leftMax: 3, refillAtMs: null, fault: null },
  { cost: 4, leftMax: 3, refillAtMs: nowMs + 1, fault: "USAGE_EXCEEDED" },
  { cost: 4, leftMax: 3, refillAtMs: nowMs, fault: null },
])("of a quota of $leftMax a cost of $cost is refused unseen: $fault", (row) => {
  const { cost, leftMax, refillAtMs, fault } = row;

  expect(findFault({ ...key, quota: { leftMax, refillAtMs } }, { ...use, cost }, nowMs)).toBe(
    fault,
  );
});
