import {
  type DescField,
  type DescMethod,
  type DescService,
  getOption,
  hasOption,
} from "@bufbuild/protobuf";
import { http } from "../../../gen/google/api/annotations_pb.ts";
import type { HttpRule } from "../../../gen/google/api/http_pb.ts";
import { resolveTextField, type TextField } from "./field-path.ts";
import { parseTemplate, type Template, TemplateError } from "./template.ts";

/** One way to reach an RPC over REST. */
export interface RestRule {
  /** The HTTP method, or "*" for any. */
  readonly method: string;
  readonly template: Template;
  readonly rpc: DescMethod;
  /**
   * What the request's body holds: the whole message, one of its fields, or (undefined) nothing.
   */
  readonly body: "*" | DescField | undefined;
  /** The field of the response that the body shows. Undefined: the whole response. */
  readonly responseBody: DescField | undefined;
  /** The field of each of the template's variables, in their order. */
  readonly pathFields: readonly TextField[];
}

/**
 * Read the `google.api.http` annotations of a service, additional bindings included, in the order
 * of the proto. Throws if one cannot work, naming the RPC and the template: wrong at start, not per
 * call.
 */
export function restRoutes(service: DescService): RestRule[] {
  return service.methods.flatMap((rpc) => {
    if (!hasOption(rpc, http)) {
      return [];
    }
    const rule = getOption(rpc, http);
    for (const extra of rule.additionalBindings) {
      if (extra.additionalBindings.length > 0) {
        throw fail(rpc, extra, "an additional binding cannot have additional bindings");
      }
    }
    return [rule, ...rule.additionalBindings].map((one) => toRestRule(rpc, one));
  });
}

function toRestRule(rpc: DescMethod, rule: HttpRule): RestRule {
  const { method, path } = patternOf(rpc, rule);
  const template = templateOf(rpc, rule, path);
  return {
    method,
    template,
    rpc,
    body: rule.body === "*" ? "*" : topField(rpc, rule, "body"),
    responseBody: topField(rpc, rule, "responseBody"),
    pathFields: template.variables.map(({ fieldPath }) => pathField(rpc, rule, fieldPath)),
  };
}

const methodByCase = {
  get: "GET",
  put: "PUT",
  post: "POST",
  delete: "DELETE",
  patch: "PATCH",
} as const;

function patternOf(rpc: DescMethod, rule: HttpRule): { method: string; path: string } {
  const { pattern } = rule;
  if (pattern.case === undefined) {
    throw fail(rpc, rule, "it has no path");
  }
  if (pattern.case !== "custom") {
    return { method: methodByCase[pattern.case], path: pattern.value };
  }
  const { kind, path } = pattern.value;
  if (!/^[-!#$%&'*+.^_`|~0-9A-Za-z]+$/.test(kind)) {
    throw fail(rpc, rule, `"${kind}" is not an HTTP method`);
  }
  return { method: kind, path };
}

function templateOf(rpc: DescMethod, rule: HttpRule, path: string): Template {
  try {
    return parseTemplate(path);
  } catch (error) {
    if (error instanceof TemplateError) {
      throw fail(rpc, rule, `${error.reason} (at ${error.position})`);
    }
    throw error;
  }
}

function topField(
  rpc: DescMethod,
  rule: HttpRule,
  option: "body" | "responseBody",
): DescField | undefined {
  const name = rule[option];
  if (name === "") {
    return undefined;
  }
  const message = option === "body" ? rpc.input : rpc.output;
  const field = message.fields.find((candidate) => candidate.name === name);
  if (field === undefined) {
    const label = option === "body" ? "body" : "response_body";
    throw fail(rpc, rule, `${label} "${name}" is not a field of ${message.typeName}`);
  }
  return field;
}

function pathField(rpc: DescMethod, rule: HttpRule, names: readonly string[]): TextField {
  const found = resolveTextField(rpc.input, names);
  const name = names.join(".");
  if ("reason" in found) {
    throw fail(rpc, rule, `variable "${name}" ${found.reason} of ${rpc.input.typeName}`);
  }
  if (found.leaf.fieldKind === "list") {
    throw fail(rpc, rule, `variable "${name}" is repeated in ${rpc.input.typeName}`);
  }
  return found;
}

function fail(rpc: DescMethod, rule: HttpRule, reason: string): Error {
  const { pattern } = rule;
  const path = pattern.case === "custom" ? pattern.value.path : (pattern.value ?? "");
  return new Error(`Cannot map ${rpc.parent.typeName}.${rpc.name} to "${path}": ${reason}`);
}
