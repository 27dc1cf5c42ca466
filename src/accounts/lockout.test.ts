import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { type Attempt, createLockout, type Lockout } from "./lockout.ts";

const start = Date.UTC(2026, 0, 1);
const attempt = (afterMs: number, change: Partial<Attempt> = {}): Attempt => ({
  name: "ada",
  ip: "192.0.2.1",
  now: new Date(start + afterMs),
  ...change,
});

function isDelayed(lockout: Lockout, one: Attempt): boolean {
  try {
    lockout.check(one);
    return false;
  } catch (error) {
    expect(ConnectError.from(error).code).toBe(Code.ResourceExhausted);
    return true;
  }
}

function failTimes(lockout: Lockout, count: number, change: Partial<Attempt> = {}): void {
  for (let time = 0; time < count; time++) {
    lockout.failed(attempt(0, change));
  }
}

test("three wrong passwords cost no wait, the fourth does, and each after it doubles it", () => {
  const lockout = createLockout();

  failTimes(lockout, 3);
  expect(isDelayed(lockout, attempt(0))).toBe(false);
  failTimes(lockout, 1);
  expect(isDelayed(lockout, attempt(1_999))).toBe(true);
  expect(isDelayed(lockout, attempt(2_000))).toBe(false);
  failTimes(lockout, 1);
  expect(isDelayed(lockout, attempt(3_999))).toBe(true);
  expect(isDelayed(lockout, attempt(4_000))).toBe(false);
});

test("nobody waits more than a quarter of an hour", () => {
  const lockout = createLockout();

  failTimes(lockout, 10_000);

  expect(isDelayed(lockout, attempt(15 * 60_000 - 1))).toBe(true);
  expect(isDelayed(lockout, attempt(15 * 60_000))).toBe(false);
});

test("others' guesses keep nobody out, nor does the name of another", () => {
  const lockout = createLockout();

  failTimes(lockout, 100);

  expect(isDelayed(lockout, attempt(0, { ip: "192.0.2.2" }))).toBe(false);
  expect(isDelayed(lockout, attempt(0, { name: "grace" }))).toBe(false);
});

test("the case of a name and the last bits of an IPv6 address make no other attempt", () => {
  const lockout = createLockout();

  failTimes(lockout, 100, { name: "Ada", ip: "2001:db8:0:1:a:b:c:d" });

  expect(isDelayed(lockout, attempt(0, { name: "aDA", ip: "2001:db8:0:1::1" }))).toBe(true);
  expect(isDelayed(lockout, attempt(0, { ip: "2001:db8:0:2::1" }))).toBe(false);
});

test("the right password, or an hour, makes all forgotten", () => {
  const lockout = createLockout();

  failTimes(lockout, 100);
  lockout.succeeded(attempt(0));
  expect(isDelayed(lockout, attempt(0))).toBe(false);
  failTimes(lockout, 100);
  lockout.failed(attempt(60 * 60_000));
  expect(isDelayed(lockout, attempt(60 * 60_000))).toBe(false);
});
