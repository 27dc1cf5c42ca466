import { z } from "zod";
import type { Violation } from "../rpc/errors.ts";

/** The values of a provider's secret, by field. */
export type Fields = ReadonlyMap<string, string>;

/** Most fields of one provider. */
export const fieldsMax = 32;
/** Most bytes of one provider's fields together. */
export const fieldsBytesMax = 65_536;

interface Shape {
  pattern: RegExp;
  /** What a value must be, for whoever sent another one. */
  description: string;
}

/** What the providers hand out. A provider, or a field, that is not here is held to no shape. */
const shapes: Readonly<Record<string, Readonly<Record<string, Shape>>>> = {
  openai: {
    apiKey: { pattern: /^sk-[\x21-\x7e]{1,509}$/, description: 'must begin with "sk-"' },
  },
  anthropic: {
    apiKey: { pattern: /^sk-ant-[\x21-\x7e]{1,505}$/, description: 'must begin with "sk-ant-"' },
  },
  "amazon-bedrock": {
    region: {
      pattern: /^[a-z]{2,3}(?:-[a-z]{2,16}){1,3}-\d{1,2}$/,
      description: "must be a region, for example us-east-1",
    },
    accessKeyId: {
      pattern: /^[A-Z0-9]{16,128}$/,
      description: "must be 16 to 128 capital letters and digits",
    },
    secretAccessKey: {
      pattern: /^[A-Za-z0-9/+=]{40}$/,
      description: "must be 40 characters of A-Z a-z 0-9 / + =",
    },
  },
};

// What a person cannot see and a provider does not hand out. Tab and line breaks are in keys that are files.
const unprintable = /[^\P{C}\t\r\n]/u;

/** What is wrong with the fields of a provider. The descriptions never hold a value. */
export function wrongFields(provider: string, fields: Fields): Violation[] {
  const known = Object.hasOwn(shapes, provider) ? shapes[provider] : undefined;
  return [...fields].flatMap(([name, value]) => {
    const shape = known !== undefined && Object.hasOwn(known, name) ? known[name] : undefined;
    if (unprintable.test(value)) {
      return [violation(name, "must not hold characters that cannot be seen")];
    }
    return shape === undefined || shape.pattern.test(value)
      ? []
      : [violation(name, shape.description)];
  });
}

function violation(name: string, description: string): Violation {
  return { field: `keys[${JSON.stringify(name)}]`, description };
}

/** Whether the fields are few and short enough to be stored together. */
export function fitTogether(fields: Fields): boolean {
  return fields.size <= fieldsMax && encodeFields(fields).byteLength <= fieldsBytesMax;
}

/** The fields as bytes, to be sealed. */
export function encodeFields(fields: Fields): Buffer {
  return Buffer.from(JSON.stringify([...fields]));
}

const encoded = z.array(z.tuple([z.string(), z.string()]));

/** The fields of opened bytes. Throws, without a word of them, when encodeFields did not make them. */
export function decodeFields(bytes: Uint8Array): Map<string, string> {
  try {
    return new Map(encoded.parse(JSON.parse(Buffer.from(bytes).toString())));
  } catch {
    // Without its cause: a parser's message shows a part of what it read.
    throw new Error("Cannot read an opened secret: it does not hold fields");
  }
}
