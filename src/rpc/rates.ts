import { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { perMinute, perSecond, type Rate } from "./gcra.ts";
import { isAdmin, type Principal } from "./principal.ts";

/** The rates of the classes. Undefined: not limited. */
export const rates: Readonly<Record<number, Rate | undefined>> = {
  [RateClass.UNSPECIFIED]: undefined,
  [RateClass.NONE]: undefined,
  [RateClass.INTERNAL]: undefined,
  [RateClass.CONSOLE]: perMinute(60),
  [RateClass.V1]: perMinute(100),
  [RateClass.ADMIN]: perMinute(30),
  [RateClass.LOGIN]: perMinute(10, 5),
  [RateClass.MONITOR]: perSecond(10, 20),
  [RateClass.VERIFY]: perSecond(100, 200),
} satisfies Record<RateClass, Rate | undefined>;

/** What those who run the platform get of MONITOR. */
const adminMonitorRate = perSecond(100, 200);

/** Classes that count addresses even when the caller is known. */
const byAddress: ReadonlySet<RateClass> = new Set<RateClass>([RateClass.LOGIN, RateClass.VERIFY]);

/** Whether calls of a class are counted by their address, whoever makes them. */
export function countsAddresses(rateClass: RateClass): boolean {
  return byAddress.has(rateClass);
}

/** The rate of a class for a caller. Undefined: not limited. */
export function rateFor(rateClass: RateClass, principal: Principal | undefined): Rate | undefined {
  const isForAdmin = rateClass === RateClass.MONITOR && principal && isAdmin(principal);
  return isForAdmin ? adminMonitorRate : rates[rateClass];
}
