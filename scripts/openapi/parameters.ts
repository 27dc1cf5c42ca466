import type { DescField, DescMessage, JsonObject } from "@bufbuild/protobuf";
import type { TextField } from "../../src/edge/rest/field-path.ts";
import type { RestRule } from "../../src/edge/rest/rules.ts";
import { isPlainMessage, textTypeOf } from "../../src/edge/rest/scalar.ts";
import type { Variable } from "../../src/edge/rest/template.ts";
import type { Contract } from "./contract.ts";
import type { SchemaWriter } from "./schema.ts";

/** A path as OpenAPI writes it, and its parameters. */
export interface PathText {
  readonly path: string;
  readonly parameters: readonly JsonObject[];
}

/**
 * Write a path template. A variable of several segments becomes a parameter for each wildcard in
 * it: OpenAPI clients encode a "/" within a parameter, which would then be part of the segment.
 */
export function describePath(rule: RestRule, schemas: SchemaWriter): PathText {
  const { segments, variables, verb } = rule.template;
  const parameters: JsonObject[] = [];
  const parts = segments.map((segment, index) => {
    if (segment.kind === "literal") {
      return encodeURIComponent(segment.value);
    }
    const at = variables.findIndex(({ start, end }) => start <= index && index < end);
    const parameter =
      variables[at] === undefined
        ? wildcardParameter(parameters.length + 1)
        : variableParameter(rule, variables[at], { at, index }, schemas);
    parameters.push(parameter);
    return `{${parameter.name}}`;
  });
  const suffix = verb?.split(":").map((part) => `:${encodeURIComponent(part)}`) ?? [];
  return { path: `/${parts.join("/")}${suffix.join("")}`, parameters };
}

function wildcardParameter(number: number): JsonObject {
  const schema = { type: "string", minLength: 1 };
  return { name: `wildcard_${number}`, in: "path", required: true, schema };
}

function variableParameter(
  { template, pathFields }: RestRule,
  { fieldPath, start, end, multiSegment }: Variable,
  { at, index }: { at: number; index: number },
  schemas: SchemaWriter,
): JsonObject {
  const name = fieldPath.join(".");
  const { segments } = template;
  const field = pathFields[at];
  const { description, ...schema } = field ? schemas.field(field.leaf) : {};
  if (!multiSegment && segments[start]?.kind === "star") {
    return {
      name,
      in: "path",
      required: true,
      ...(description !== undefined && { description }),
      schema: withoutEmpty(schema),
    };
  }
  const isRest = segments[index]?.kind === "doubleStar";
  const wildcards = segments.slice(start, end).filter(({ kind }) => kind !== "literal");
  const number = segments.slice(start, index + 1).filter(({ kind }) => kind !== "literal").length;
  const notes = [
    ...(description === undefined ? [] : [description]),
    ...(end - start > 1
      ? [`A part of \`${name}\`, which is \`${shapeOf(segments.slice(start, end))}\`.`]
      : []),
    ...(isRest ? ["May hold slashes, sent as they are."] : []),
  ];
  return {
    name: wildcards.length > 1 || end - start > 1 ? `${name}_${number}` : name,
    in: "path",
    required: true,
    description: notes.join(" "),
    schema: isRest ? { type: "string" } : { type: "string", pattern: "^[^/]+$" },
  };
}

function shapeOf(segments: RestRule["template"]["segments"]): string {
  const texts = { star: "*", doubleStar: "**" };
  return segments
    .map((segment) => (segment.kind === "literal" ? segment.value : texts[segment.kind]))
    .join("/");
}

// A segment is never empty, whatever the field allows.
function withoutEmpty({ pattern, ...rest }: JsonObject): JsonObject {
  if (typeof pattern === "string") {
    return { ...rest, pattern: pattern.replace(/^\^\$\|/, "") };
  }
  return rest.type === "string" && !("format" in rest) ? { minLength: 1, ...rest } : rest;
}

// Recursive messages have parts without end.
const queryDepthMax = 4;

/** The parameters of the query: the fields that neither the path nor the body holds. */
export function queryParameters(
  rule: RestRule,
  contract: Contract,
  schemas: SchemaWriter,
): JsonObject[] {
  if (rule.body === "*") {
    return [];
  }
  const bound = new Set(rule.pathFields.map(({ path }) => nameOf(path)));
  if (rule.body !== undefined) {
    bound.add(rule.body.jsonName);
  }
  const required = contract.requiredFields(rule.rpc.input);
  return queryPaths(rule.rpc.input, [])
    .filter((path) => !path.some((_, index) => bound.has(nameOf(path.slice(0, index + 1)))))
    .map((path) => queryParameter(path, path.length === 1 && required.has(lastOf(path)), schemas));
}

type Path = TextField["path"];

function queryPaths(desc: DescMessage, parents: readonly DescField[]): Path[] {
  return desc.fields.flatMap((field): Path[] => {
    const path = [...parents, field] as unknown as Path;
    if (textTypeOf(field) !== undefined) {
      return [path];
    }
    const isOpen =
      field.fieldKind === "message" &&
      isPlainMessage(field.message) &&
      field.message.typeName !== "google.api.HttpBody" &&
      !path.some(({ parent }) => parent === field.message) &&
      path.length < queryDepthMax;
    return isOpen ? queryPaths(field.message, path) : [];
  });
}

function queryParameter(path: Path, required: boolean, schemas: SchemaWriter): JsonObject {
  const { description, deprecated, writeOnly: _, ...schema } = schemas.field(lastOf(path));
  return {
    name: nameOf(path),
    in: "query",
    ...(description !== undefined && { description }),
    ...(required && { required }),
    ...(deprecated !== undefined && { deprecated }),
    schema,
  };
}

function lastOf(path: Path): DescField {
  return path.at(-1) ?? path[0];
}

function nameOf(path: readonly DescField[]): string {
  return path.map(({ jsonName }) => jsonName).join(".");
}
