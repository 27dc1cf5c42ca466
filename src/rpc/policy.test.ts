import { expect, test } from "vitest";
import { Access, RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import { checkPolicy, methodPolicy, openPolicy } from "./policy.ts";

test("a method without a policy cannot be served, and is named", () => {
  expect(() => methodPolicy(Health.method.check)).toThrow(
    "Cannot serve grpc.health.v1.Health/Check: it has no (callora.policy.v1.method) option",
  );
});

test("half a policy is none", () => {
  expect(() => checkPolicy("GET /x", { ...openPolicy, access: Access.UNSPECIFIED })).toThrow(
    "Cannot serve GET /x: its policy does not say who may call",
  );
  expect(() => checkPolicy("GET /x", { ...openPolicy, rateClass: RateClass.UNSPECIFIED })).toThrow(
    "Cannot serve GET /x: its policy does not say how often it may be called",
  );
});
