import {
  type DescEnum,
  type DescField,
  type DescMessage,
  type JsonWriteOptions,
  type Message,
  ScalarType,
  toJson,
} from "@bufbuild/protobuf";
import { base64Encode } from "@bufbuild/protobuf/wire";
import { isWrapperDesc } from "@bufbuild/protobuf/wkt";
import { isPlain } from "../plain-message.ts";

/** Return the ProtoJSON text of a message. Throws as toJson() does if a value does not fit its field. */
export type WriteJson = (message: Message) => string;

/**
 * Prepare to write messages of a type. The text is that of toJson(), but made at once instead of by way
 * of an object for each message; what is rare, or wrong, is left to toJson().
 */
export function compileWriter(
  desc: DescMessage,
  options: Pick<JsonWriteOptions, "alwaysEmitImplicit" | "registry">,
): WriteJson {
  const write = messageWriter({ options, writers: new Map() }, desc);
  return (message) => {
    const text = write(message);
    // Looking at a character has the engine join the pieces. Joined while it is written to a socket, the
    // text ends up among the old objects, and the collector has four times the work.
    text?.charCodeAt(0);
    return text ?? JSON.stringify(toJson(desc, message, options));
  };
}

/** Undefined: this is for toJson(). */
type Write = (value: unknown) => string | undefined;

/** Returns the member with a comma before it, or nothing for a field that is not set. */
type WriteMember = (message: Fields) => string | undefined;

type Fields = Readonly<Record<string, unknown>>;

interface Compiling {
  readonly options: Pick<JsonWriteOptions, "alwaysEmitImplicit" | "registry">;
  /** Of types that contain themselves there is one each. */
  readonly writers: Map<DescMessage, Write>;
}

const implicitPresence = 2;

function messageWriter(compiling: Compiling, desc: DescMessage): Write {
  const known = compiling.writers.get(desc);
  if (known !== undefined) {
    return known;
  }
  const members: WriteMember[] = [];
  const write: Write = (value) => {
    const message = value as Message & Fields;
    if (message.$typeName !== desc.typeName || message.$unknown !== undefined) {
      return undefined;
    }
    let text = "";
    for (const member of members) {
      const written = member(message);
      if (written === undefined) {
        return undefined;
      }
      text += written;
    }
    return text === "" ? "{}" : `{${text.slice(1)}}`;
  };
  const chosen = desc.typeName.startsWith("google.protobuf.") || !isPlain(desc) ? leave : write;
  compiling.writers.set(desc, chosen);
  for (const field of desc.fields.toSorted((a, b) => a.number - b.number)) {
    members.push(memberWriter(compiling, field));
  }
  return chosen;
}

const leave: Write = () => undefined;

function memberWriter(compiling: Compiling, field: DescField): WriteMember {
  const name = field.localName;
  const key = `,${JSON.stringify(field.jsonName)}:`;
  const write = fieldWriter(compiling, field);
  const written = (value: unknown) => {
    const text = write(value);
    return text === undefined ? undefined : key + text;
  };
  if (field.oneof !== undefined) {
    const group = field.oneof.localName;
    return (message) => {
      const chosen = message[group] as { readonly case?: string; readonly value: unknown };
      return chosen.case === name ? written(chosen.value) : "";
    };
  }
  if (field.fieldKind === "message" || field.presence !== implicitPresence) {
    return (message) => {
      const value = message[name];
      return value === undefined ? "" : written(value);
    };
  }
  if (compiling.options.alwaysEmitImplicit) {
    return (message) => written(message[name]);
  }
  const isZero = zeroTest(field);
  return (message) => {
    const value = message[name];
    return isZero(value) ? "" : written(value);
  };
}

function zeroTest(field: DescField): (value: unknown) => boolean {
  switch (field.fieldKind) {
    case "list":
      return (value) => Array.isArray(value) && value.length === 0;
    case "map":
      return (value) => Object.keys(value as Fields).length === 0;
    case "enum": {
      const zero = field.enum.values[0]?.number;
      return (value) => value === zero;
    }
    default:
      // Minus zero is not the default of a field.
      return (value) =>
        Object.is(value, 0) ||
        value === "" ||
        value === false ||
        value === 0n ||
        (value instanceof Uint8Array && value.length === 0);
  }
}

function fieldWriter(compiling: Compiling, field: DescField): Write {
  switch (field.fieldKind) {
    case "list":
      return listWriter(valueWriter(compiling, field));
    case "map":
      return mapWriter(valueWriter(compiling, field));
    default:
      return valueWriter(compiling, field);
  }
}

/** Writes a single value of a field, or one of its list or map. */
function valueWriter(compiling: Compiling, field: DescField): Write {
  if (field.message !== undefined) {
    return nestedWriter(compiling, field.message);
  }
  return field.enum === undefined ? scalarWriter(field.scalar) : enumWriter(field.enum);
}

function nestedWriter(compiling: Compiling, desc: DescMessage): Write {
  switch (desc.typeName) {
    case "google.protobuf.Timestamp":
    case "google.protobuf.Duration":
    case "google.protobuf.FieldMask":
    case "google.protobuf.Any":
      return (value) => JSON.stringify(toJson(desc, value as Message, compiling.options));
  }
  // A field holds their values in a form of its own.
  const isUnwrapped = isWrapperDesc(desc) || desc.typeName === "google.protobuf.Struct";
  return isUnwrapped ? leave : messageWriter(compiling, desc);
}

function listWriter(write: Write): Write {
  return (value) => {
    const items = value as readonly unknown[];
    let text = "";
    for (const item of items) {
      const written = write(item);
      if (written === undefined) {
        return undefined;
      }
      text += text === "" ? written : `,${written}`;
    }
    return `[${text}]`;
  };
}

function mapWriter(write: Write): Write {
  return (value) => {
    const entries = value as Fields;
    let text = "";
    for (const key of Object.keys(entries)) {
      const written = write(entries[key]);
      if (written === undefined) {
        return undefined;
      }
      text += `${text === "" ? "" : ","}${JSON.stringify(key)}:${written}`;
    }
    return `{${text}}`;
  };
}

function enumWriter(desc: DescEnum): Write {
  if (desc.typeName === "google.protobuf.NullValue") {
    return (value) => (typeof value === "number" ? "null" : undefined);
  }
  const names = new Map<unknown, string>();
  for (const { number, jsonName } of desc.values) {
    // Of several names for a number the first is written.
    if (!names.has(number)) {
      names.set(number, JSON.stringify(jsonName));
    }
  }
  return (value) => names.get(value) ?? (Number.isInteger(value) ? String(value) : undefined);
}

function scalarWriter(type: ScalarType): Write {
  switch (type) {
    case ScalarType.STRING:
      return (value) => (typeof value === "string" ? quote(value) : undefined);
    case ScalarType.BOOL:
      return (value) => (typeof value === "boolean" ? String(value) : undefined);
    case ScalarType.BYTES:
      return (value) => (value instanceof Uint8Array ? `"${base64Encode(value)}"` : undefined);
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return (value) => (typeof value === "bigint" ? `"${value}"` : undefined);
    default:
      return (value) => (Number.isFinite(value) ? String(value) : undefined);
  }
}

const needsNoEscape = /^[ !#-[\]-\ud7ff\ue000-\uffff]*$/;

function quote(text: string): string {
  return needsNoEscape.test(text) ? `"${text}"` : JSON.stringify(text);
}
