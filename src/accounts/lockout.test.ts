import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { createLimiter } from "../rpc/limiter.ts";
import { type Attempt, createLockout, type Lockout, strangerOf } from "./lockout.ts";

const start = Date.UTC(2026, 0, 1);
const attempt = (afterMs: number, change: Partial<Attempt> = {}): Attempt => ({
  subject: `usr_${"0".repeat(26)}`,
  passwordHash: "a hash",
  ip: "192.0.2.1",
  now: new Date(start + afterMs),
  ...change,
});
const home = "198.51.100.7";

/** The lockout of a process, whose limits others may share. Everybody signed in from home before. */
function newLockout(limiter = createLimiter()): Lockout {
  return createLockout({ limiter, isFamiliar: async ({ ip }) => ip === home });
}

async function isDelayed(lockout: Lockout, one: Attempt): Promise<boolean> {
  try {
    await lockout.check(one);
    return false;
  } catch (error) {
    expect(ConnectError.from(error).code).toBe(Code.ResourceExhausted);
    return true;
  }
}

async function failTimes(lockout: Lockout, count: number, change: Partial<Attempt> = {}) {
  for (let time = 0; time < count; time++) {
    await lockout.failed(attempt(0, change));
  }
}

test("three wrong passwords cost no wait, the fourth does, and each after it doubles it", async () => {
  const lockout = newLockout();

  await failTimes(lockout, 3);
  expect(await isDelayed(lockout, attempt(0))).toBe(false);
  await failTimes(lockout, 1);
  expect(await isDelayed(lockout, attempt(1_999))).toBe(true);
  expect(await isDelayed(lockout, attempt(2_000))).toBe(false);
  await failTimes(lockout, 1);
  expect(await isDelayed(lockout, attempt(3_999))).toBe(true);
  expect(await isDelayed(lockout, attempt(4_000))).toBe(false);
});

test("nobody waits more than a quarter of an hour", async () => {
  const lockout = newLockout();

  await failTimes(lockout, 10_000);

  expect(await isDelayed(lockout, attempt(15 * 60_000 - 1))).toBe(true);
  expect(await isDelayed(lockout, attempt(15 * 60_000))).toBe(false);
});

test("the guesses of another address keep nobody out, nor do those at another person", async () => {
  const lockout = newLockout();

  await failTimes(lockout, 100);

  expect(await isDelayed(lockout, attempt(0, { ip: "192.0.2.2" }))).toBe(false);
  expect(await isDelayed(lockout, attempt(0, { subject: strangerOf("grace") }))).toBe(false);
});

test("the case of a name and the last bits of an IPv6 address make no other attempt", async () => {
  const lockout = newLockout();

  await failTimes(lockout, 100, { subject: strangerOf("Ada"), ip: "2001:db8:0:1:a:b:c:d" });

  const again = { subject: strangerOf("aDA"), ip: "2001:db8:0:1::1" };
  expect(await isDelayed(lockout, attempt(0, again))).toBe(true);
  expect(await isDelayed(lockout, attempt(0, { ...again, ip: "2001:db8:0:2::1" }))).toBe(false);
});

test("the right password, or an hour, makes all forgotten", async () => {
  const lockout = newLockout();

  await failTimes(lockout, 15);
  lockout.succeeded(attempt(0));
  expect(await isDelayed(lockout, attempt(0))).toBe(false);
  await failTimes(lockout, 15);
  await lockout.failed(attempt(60 * 60_000));
  expect(await isDelayed(lockout, attempt(60 * 60_000))).toBe(false);
});

test("processes that share limits give an address no budget each", async () => {
  const limiter = createLimiter();
  let passed = 0;

  for (let process = 0; process < 20; process++) {
    const lockout = newLockout(limiter);
    while (!(await isDelayed(lockout, attempt(0)))) {
      passed += 1;
      await lockout.failed(attempt(0));
    }
  }

  expect(passed).toBe(20);
  expect(await isDelayed(newLockout(limiter), attempt(179_000))).toBe(true);
  expect(await isDelayed(newLockout(limiter), attempt(180_000))).toBe(false);
});

test("guesses from many addresses are slowed, and keep none out who signed in before", async () => {
  const lockout = newLockout();
  let passed = 0;
  for (let n = 0; n < 200; n++) {
    const guess = attempt(0, { ip: `203.0.113.${n}` });
    passed += (await isDelayed(lockout, guess)) ? 0 : 1;
    await lockout.failed(guess);
  }

  expect(passed).toBe(50);
  const elsewhere = { ip: "192.0.2.9" };
  expect(await isDelayed(lockout, attempt(0, elsewhere))).toBe(true);
  expect(await isDelayed(lockout, attempt(600_000, elsewhere)), "one in ten minutes").toBe(false);
  expect(await isDelayed(lockout, attempt(600_000, elsewhere))).toBe(true);
  expect(await isDelayed(lockout, attempt(0, { ip: home }))).toBe(false);
  const renewed = { ...elsewhere, passwordHash: "another hash" };
  expect(await isDelayed(lockout, attempt(0, renewed)), "a new password").toBe(false);
  expect(await isDelayed(lockout, attempt(0, { ...elsewhere, isSignedIn: true }))).toBe(false);
});
