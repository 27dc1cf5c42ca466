import { type DescMethod, getOption, hasOption } from "@bufbuild/protobuf";
import {
  Access,
  type MethodPolicy,
  method as policyOption,
  RateClass,
} from "../../gen/callora/policy/v1/policy_pb.ts";

/** Who may call a method or a route, what is audited, how often it may be called. */
export type Policy = Pick<MethodPolicy, "access" | "auditAction" | "rateClass" | "successStatus"> &
  Partial<Pick<MethodPolicy, "scope" | "personal" | "validated">>;

/** Anybody, not limited, not audited: for probes and descriptions of the server itself. */
export const openPolicy: Policy = {
  access: Access.PUBLIC,
  auditAction: "",
  rateClass: RateClass.NONE,
  successStatus: 0,
};

/** The policy that the contract gives a method. Throws if it gives none, or half of one. */
export function methodPolicy(method: DescMethod): Policy {
  const name = methodName(method);
  if (!hasOption(method, policyOption)) {
    throw new Error(`Cannot serve ${name}: it has no (callora.policy.v1.method) option`);
  }
  return checkPolicy(name, getOption(method, policyOption));
}

/** The policy itself, if it is complete. Throws, naming the method or route, otherwise. */
export function checkPolicy(name: string, policy: Policy): Policy {
  if (policy.access === Access.UNSPECIFIED) {
    throw new Error(`Cannot serve ${name}: its policy does not say who may call`);
  }
  if (policy.rateClass === RateClass.UNSPECIFIED) {
    throw new Error(`Cannot serve ${name}: its policy does not say how often it may be called`);
  }
  return policy;
}

/** `callora.keys.v1.KeyService/CreateKey`. */
export function methodName(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}
