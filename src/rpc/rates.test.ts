import { expect, test } from "vitest";
import { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import type { Principal } from "./principal.ts";
import { countsAddresses, rateFor } from "./rates.ts";

const base = { id: "usr_1", accountId: "acc_1", mode: "live" } as const;
const session = {
  memberRole: "owner",
  homeAccountId: "acc_1",
  credential: "session",
  credentialId: "ses_1",
} as const;
const user = { kind: "user", role: "user", ...base, ...session } as const;
const admin: Principal = { ...user, role: "admin" };
const superAdmin: Principal = { ...user, role: "super_admin" };
const developer: Principal = { ...user, role: "developer" };

/** A rate in the terms of the documentation. */
function perMinuteOf(rateClass: RateClass, principal?: Principal) {
  const rate = rateFor(rateClass, principal);
  return rate && { perMinute: 60_000 / rate.intervalMs, burst: rate.burst };
}

test.for([
  { rateClass: RateClass.V1, perMinute: 100, burst: 100 },
  { rateClass: RateClass.CONSOLE, perMinute: 60, burst: 60 },
  { rateClass: RateClass.ADMIN, perMinute: 30, burst: 30 },
  { rateClass: RateClass.LOGIN, perMinute: 10, burst: 5 },
  { rateClass: RateClass.MONITOR, perMinute: 600, burst: 20 },
  { rateClass: RateClass.VERIFY, perMinute: 6000, burst: 200 },
])("class $rateClass is $perMinute a minute, $burst at once", ({ rateClass, ...rate }) => {
  expect(perMinuteOf(rateClass, user)).toEqual(rate);
  expect(perMinuteOf(rateClass)).toEqual(rate);
});

test("who runs the platform may watch it more often", () => {
  const rate = { perMinute: 6000, burst: 200 };

  expect(perMinuteOf(RateClass.MONITOR, admin)).toEqual(rate);
  expect(perMinuteOf(RateClass.MONITOR, superAdmin)).toEqual(rate);
  expect(perMinuteOf(RateClass.MONITOR, developer)).toEqual({ perMinute: 600, burst: 20 });
  expect(perMinuteOf(RateClass.CONSOLE, admin)).toEqual({ perMinute: 60, burst: 60 });
});

test.for([RateClass.NONE, RateClass.INTERNAL, RateClass.UNSPECIFIED])(
  "class %i is not limited",
  (rateClass) => {
    expect(rateFor(rateClass, undefined)).toBeUndefined();
  },
);

test("logins and public verifications count addresses, whoever calls", () => {
  const { UNSPECIFIED, NONE, INTERNAL, CONSOLE, V1, ADMIN, LOGIN, MONITOR, VERIFY } = RateClass;
  const all = [UNSPECIFIED, NONE, INTERNAL, CONSOLE, V1, ADMIN, LOGIN, MONITOR, VERIFY];
  const classes = all.filter((rateClass) => countsAddresses(rateClass));

  expect(classes).toEqual([RateClass.LOGIN, RateClass.VERIFY]);
});
