import {
  create,
  type DescExtension,
  type DescField,
  type DescMessage,
  type DescMethod,
  type DescOneof,
  getOption,
  hasOption,
  type Registry,
} from "@bufbuild/protobuf";
import type { GenExtension } from "@bufbuild/protobuf/codegenv2";
import type { FieldOptions, MethodOptions, OneofOptions } from "@bufbuild/protobuf/wkt";
import { createValidator } from "@bufbuild/protovalidate";
import type { FieldRules, OneofRules } from "../../gen/buf/validate/validate_pb.ts";
import type { Access, MethodPolicy } from "../../gen/callora/policy/v1/policy_pb.ts";
import { commentOf } from "./comments.ts";

/** The access of a method as the contract names it. */
export type AccessName = keyof typeof Access;

/** The policy of a method, in words. */
export interface PolicyText {
  readonly access: AccessName;
  readonly accessText: string;
  readonly rateClass: string;
  readonly rateText: string;
  /** 200 unless the policy says otherwise. */
  readonly successStatus: number;
  /** Whether replies have an ETag. */
  readonly isValidated: boolean;
}

/** What the options of the contract say. */
export interface Contract {
  rulesOf(field: DescField): FieldRules | undefined;
  isOneofRequired(oneof: DescOneof): boolean;
  /** The fields that must be set: without them a message is refused. */
  requiredFields(message: DescMessage): ReadonlySet<DescField>;
  /** Undefined for a method without a policy, which no server would start with. */
  policyOf(method: DescMethod): PolicyText | undefined;
  /** Throws if the contract has no such message. */
  message(typeName: string): DescMessage;
}

/**
 * Read options with the extensions of the contract itself, not with those in gen: gen is what this
 * run is about to replace, and may be a step behind.
 */
export function readContract(registry: Registry): Contract {
  const fieldOption = find<FieldOptions, FieldRules>(registry, "buf.validate.field");
  const oneofOption = find<OneofOptions, OneofRules>(registry, "buf.validate.oneof");
  const policyOption = find<MethodOptions, MethodPolicy>(registry, "callora.policy.v1.method");
  const validator = createValidator({ registry });
  return {
    rulesOf(field) {
      return fieldOption && hasOption(field, fieldOption)
        ? getOption(field, fieldOption)
        : undefined;
    },
    isOneofRequired(oneof) {
      return oneofOption !== undefined && getOption(oneof, oneofOption).required;
    },
    requiredFields(message) {
      const { violations = [] } = validator.validate(message, create(message));
      const refused = violations.flatMap(({ field: [first, ...rest] }) =>
        first?.kind === "field" && rest.length === 0 ? [first] : [],
      );
      return new Set(refused);
    },
    policyOf(method) {
      return policyOption && hasOption(method, policyOption)
        ? policyText(registry, getOption(method, policyOption))
        : undefined;
    },
    message(typeName) {
      const message = registry.getMessage(typeName);
      if (message === undefined) {
        throw new Error(`Cannot describe the API: message ${typeName} is not in the contract`);
      }
      return message;
    },
  };
}

function find<Extendee extends FieldOptions | MethodOptions | OneofOptions, Value>(
  registry: Registry,
  typeName: string,
): GenExtension<Extendee, Value> | undefined {
  const extension: DescExtension | undefined = registry.getExtension(typeName);
  return extension as GenExtension<Extendee, Value> | undefined;
}

function policyText(registry: Registry, policy: MethodPolicy): PolicyText {
  const access = enumValue(registry, "callora.policy.v1.Access", policy.access);
  const rate = enumValue(registry, "callora.policy.v1.RateClass", policy.rateClass);
  return {
    access: access.name as AccessName,
    accessText: access.text,
    rateClass: rate.name,
    rateText: rate.text,
    successStatus: policy.successStatus === 0 ? 200 : policy.successStatus,
    isValidated: policy.validated,
  };
}

function enumValue(registry: Registry, typeName: string, number: number) {
  const value = registry.getEnum(typeName)?.value[number];
  if (value === undefined) {
    throw new Error(`Cannot describe the API: ${typeName} has no value ${number}`);
  }
  return { name: value.localName, text: commentOf(value) };
}
