import { create, type DescField, type DescMessage, type Message } from "@bufbuild/protobuf";
import { BindError, type Violation } from "./errors.ts";
import { isPlainMessage, type TextType, textTypeOf } from "./scalar.ts";

/** A field of a message, or of a message within it: every field on the way, the named one last. */
export type FieldPath = readonly [DescField, ...DescField[]];

/** A field path and how text becomes a value at its end. */
export interface TextField {
  readonly path: FieldPath;
  readonly leaf: DescField;
  readonly type: TextType;
}

/** Most parts of a dotted path: recursive messages would allow any number. */
export const fieldPathDepthMax = 32;

/** The path in proto names, joined with dots. */
export function nameOf(path: readonly DescField[]): string {
  return path.map((field) => field.name).join(".");
}

/**
 * Find the field that the names, proto or JSON ones, lead to, if text can fill it. Returns the
 * reason, which completes a message about the field, if there is none.
 */
export function resolveTextField(
  desc: DescMessage,
  names: readonly string[],
): TextField | { readonly reason: string } {
  if (names.length > fieldPathDepthMax) {
    return { reason: `has more than ${fieldPathDepthMax} parts` };
  }
  const path: DescField[] = [];
  let message: DescMessage | undefined = desc;
  for (const name of names) {
    const field: DescField | undefined = message?.fields.find(
      (candidate) => candidate.name === name || candidate.jsonName === name,
    );
    if (message === undefined || field === undefined) {
      return { reason: "is not a known field" };
    }
    path.push(field);
    message = openedBy(field);
  }
  const [first, ...rest] = path;
  const leaf = path.at(-1);
  const type = leaf && textTypeOf(leaf);
  if (first === undefined || leaf === undefined || type === undefined) {
    return { reason: "cannot be set from text" };
  }
  return { path: [first, ...rest], leaf, type };
}

function openedBy(field: DescField): DescMessage | undefined {
  return field.fieldKind === "message" && isPlainMessage(field.message) ? field.message : undefined;
}

/** The message that holds the path's last field. Makes the messages on the way that are not set. */
export function openParent(root: Message, path: FieldPath): Record<string, unknown> {
  let target = root as unknown as Record<string, unknown>;
  for (let index = 0; index < path.length - 1; index++) {
    const field = path[index] as DescField;
    let next = getField(target, field);
    if (next === undefined && field.fieldKind === "message") {
      next = create(field.message);
      setField(target, field, next);
    }
    target = next as Record<string, unknown>;
  }
  return target;
}

/** The field's value as the message holds it, undefined if another member of its oneof is set. */
export function getField(target: Record<string, unknown>, field: DescField): unknown {
  if (field.oneof === undefined) {
    return target[field.localName];
  }
  const choice = target[field.oneof.localName] as { case?: string; value?: unknown };
  return choice.case === field.localName ? choice.value : undefined;
}

/** Set the field to a value as the message holds it, in place of any other member of its oneof. */
export function setField(target: Record<string, unknown>, field: DescField, value: unknown): void {
  if (field.oneof === undefined) {
    target[field.localName] = value;
  } else {
    target[field.oneof.localName] = { case: field.localName, value };
  }
}

/**
 * Compile the binding of path variables. The result sets one text for each field, in order, over
 * whatever the message holds there: the path names the resource. It throws BindError.
 */
export function compilePath(
  fields: readonly TextField[],
): (message: Message, texts: readonly string[]) => void {
  return (message, texts) => {
    const violations: Violation[] = [];
    for (const [index, { path, leaf, type }] of fields.entries()) {
      const value = type.parse(texts[index] ?? "");
      if (value === undefined) {
        violations.push({ field: nameOf(path), description: type.expected });
      } else {
        setField(openParent(message, path), leaf, value);
      }
    }
    if (violations.length > 0) {
      throw new BindError(violations);
    }
  };
}
