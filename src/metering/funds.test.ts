import { expect, test } from "vitest";
import { createFunds, type Means } from "./funds.ts";

const none: Means = {
  leftOf: () => 0n,
  balanceOf: () => 0n,
  debtOf: () => 0n,
  debtLimitOf: () => 0n,
};
const use = { accountId: "acc_1", mode: "live", leaseId: null, nanos: 10n } as const;

test("a lease pays as long as it covers an event as a whole, then the balance, then a debt", () => {
  const funds = createFunds({
    ...none,
    leftOf: (_account, mode, lease) => (mode === "live" && lease === "lea_1" ? 25n : 0n),
    balanceOf: () => 14n,
    debtLimitOf: () => 20n,
  });
  const leased = { ...use, leaseId: "lea_1" };

  const paid = Array.from({ length: 6 }, () => funds.pay(leased));

  expect(paid).toEqual([
    { leasedNanos: 10n, owedNanos: 0n },
    { leasedNanos: 10n, owedNanos: 0n },
    { leasedNanos: 0n, owedNanos: 0n },
    { leasedNanos: 0n, owedNanos: 6n },
    { leasedNanos: 0n, owedNanos: 10n },
    null,
  ]);
});

test("an event over the limit takes nothing: a smaller one after it may fit", () => {
  const funds = createFunds({
    ...none,
    balanceOf: () => 5n,
    debtOf: () => 7n,
    debtLimitOf: () => 10n,
  });

  expect(funds.pay({ ...use, nanos: 9n })).toBeNull();
  expect(funds.pay({ ...use, nanos: 8n })).toEqual({ leasedNanos: 0n, owedNanos: 3n });
  expect(funds.pay({ ...use, nanos: 1n })).toBeNull();
});

test("a debt beyond the limit stops nobody who can pay", () => {
  const funds = createFunds({
    ...none,
    balanceOf: () => 10n,
    debtOf: () => 50n,
    debtLimitOf: () => 1n,
  });

  expect(funds.pay(use)).toEqual({ leasedNanos: 0n, owedNanos: 0n });
});

test("accounts and modes have purses of their own", () => {
  const funds = createFunds({ ...none, balanceOf: () => 10n });

  expect(funds.pay(use)).not.toBeNull();
  expect(funds.pay({ ...use, mode: "test" })).not.toBeNull();
  expect(funds.pay({ ...use, accountId: "acc_2" })).not.toBeNull();
  expect(funds.pay(use)).toBeNull();
});
