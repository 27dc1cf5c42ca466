import {
  create,
  type DescEnum,
  type DescField,
  type DescMessage,
  fromJson,
  ScalarType,
} from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import {
  DurationSchema,
  FieldMaskSchema,
  hasCustomJsonRepresentation,
  isWrapperDesc,
  TimestampSchema,
} from "@bufbuild/protobuf/wkt";

/**
 * How the text of a path variable or query value becomes the value of a field, or of a list's item.
 */
export interface TextType {
  /** Completes a message about the field: "must be true or false". */
  readonly expected: string;
  /** The value as a generated message holds it. Undefined if the text is not one. */
  parse(text: string): unknown;
}

/**
 * Return how text becomes a value of the field: a scalar, an enum, a Timestamp, Duration, FieldMask
 * or wrapper, singular or repeated. Undefined for fields that text cannot fill: maps, other
 * messages.
 */
export function textTypeOf(field: DescField): TextType | undefined {
  if (field.fieldKind === "map") {
    return undefined;
  }
  if (field.enum !== undefined) {
    return enumType(field.enum);
  }
  if (field.message === undefined) {
    return scalarType(field.scalar, field.longAsString);
  }
  const { message } = field;
  if (isWrapperDesc(message)) {
    return wrapperType(message, field);
  }
  return messageTypes[message.typeName];
}

/** Whether messages of this type have parts that a dotted path can name. */
export function isPlainMessage(desc: DescMessage): boolean {
  return !hasCustomJsonRepresentation(desc);
}

function scalarType(scalar: ScalarType, longAsString: boolean): TextType {
  switch (scalar) {
    case ScalarType.STRING:
      return { expected: "must be a string", parse: (text) => text };
    case ScalarType.BOOL:
      return { expected: "must be true or false", parse: (text) => booleans.get(text) };
    case ScalarType.BYTES:
      return { expected: "must be base64", parse: parseBytes };
    case ScalarType.DOUBLE:
      return { expected: "must be a number", parse: (text) => parseFloating(text, Number) };
    case ScalarType.FLOAT:
      return {
        expected: "must be a number in the range of a float",
        parse: (text) => parseFloating(text, Math.fround),
      };
    case ScalarType.INT32:
    case ScalarType.SINT32:
    case ScalarType.SFIXED32:
      return smallType("a 32-bit integer", -(2 ** 31), 2 ** 31 - 1);
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return smallType("an unsigned 32-bit integer", 0, 2 ** 32 - 1);
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64: {
      const toLocal = longAsString ? String : identity;
      return integerType("a 64-bit integer", -(2n ** 63n), 2n ** 63n - 1n, toLocal);
    }
    case ScalarType.UINT64:
    case ScalarType.FIXED64: {
      const toLocal = longAsString ? String : identity;
      return integerType("an unsigned 64-bit integer", 0n, 2n ** 64n - 1n, toLocal);
    }
  }
}

const booleans: ReadonlyMap<string, boolean> = new Map([
  ["true", true],
  ["false", false],
]);

function identity(value: bigint): bigint {
  return value;
}

// However many digits there are: a number that is rounded is out of range as well.
function smallType(noun: string, min: number, max: number): TextType {
  return {
    expected: `must be ${noun}`,
    parse(text) {
      // Plus zero makes zero of minus zero.
      const value = /^-?\d+$/.test(text) ? Number(text) + 0 : Number.NaN;
      return value >= min && value <= max ? value : undefined;
    },
  };
}

function integerType(
  noun: string,
  min: bigint,
  max: bigint,
  toLocal: (value: bigint) => unknown,
): TextType {
  return {
    expected: `must be ${noun}`,
    parse(text) {
      if (!/^-?\d+$/.test(text)) {
        return undefined;
      }
      const value = BigInt(text);
      return value >= min && value <= max ? toLocal(value) : undefined;
    },
  };
}

// A finite number that rounding turns into an infinity is out of range.
function parseFloating(text: string, round: (value: number) => number): number | undefined {
  switch (text) {
    case "NaN":
      return Number.NaN;
    case "Infinity":
      return Number.POSITIVE_INFINITY;
    case "-Infinity":
      return Number.NEGATIVE_INFINITY;
  }
  if (!/^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?$/.test(text)) {
    return undefined;
  }
  const value = Number(text);
  return Number.isFinite(round(value)) ? value : undefined;
}

function parseBytes(text: string): Uint8Array | undefined {
  const padding = /^[-\w+/]*(={0,2})$/.exec(text)?.[1];
  if (padding === undefined) {
    return undefined;
  }
  const isWhole = padding === "" ? text.length % 4 !== 1 : text.length % 4 === 0;
  return isWhole ? base64Decode(text) : undefined;
}

function enumType(desc: DescEnum): TextType {
  const byName = new Map<string, number>();
  for (const value of desc.values) {
    byName.set(value.name, value.number).set(value.jsonName, value.number);
  }
  if (desc.typeName === "google.protobuf.NullValue") {
    byName.set("null", 0);
  }
  const numbers = integerType("", -(2n ** 31n), 2n ** 31n - 1n, Number);
  const isKnown = (number: unknown) => desc.values.some((value) => value.number === number);
  return {
    expected: `must be a name or number of ${desc.typeName}`,
    parse(text) {
      const number = byName.get(text) ?? numbers.parse(text);
      return desc.open || isKnown(number) ? number : undefined;
    },
  };
}

// A generated message holds a wrapper as its bare value, but for members of oneofs and lists.
function wrapperType(desc: DescMessage, field: DescField): TextType | undefined {
  const inner = desc.fields[0];
  if (inner?.fieldKind !== "scalar") {
    return undefined;
  }
  const { expected, parse } = scalarType(inner.scalar, inner.longAsString);
  if (field.fieldKind === "message" && field.oneof === undefined) {
    return { expected, parse };
  }
  return {
    expected,
    parse(text) {
      const value = parse(text);
      return value === undefined ? undefined : create(desc, { value });
    },
  };
}

const messageTypes: Readonly<Record<string, TextType>> = {
  "google.protobuf.Timestamp": {
    expected: "must be an RFC 3339 time, such as 2026-01-31T12:00:00Z",
    parse: (text) => (isRealTime(text) ? fromText(TimestampSchema, text) : undefined),
  },
  "google.protobuf.Duration": {
    expected: "must be a duration in seconds, such as 1.5s",
    parse: (text) =>
      /^-?\d{1,12}(?:\.\d{1,9})?s$/.test(text) ? fromText(DurationSchema, text) : undefined,
  },
  "google.protobuf.FieldMask": {
    expected: "must be field names, separated by commas",
    parse: parseFieldMask,
  },
};

// Date.parse, on which protobuf-es leans, turns February 30 into March 1 and 24:00 into the next
// day.
function isRealTime(text: string): boolean {
  const [, year, month, day, hour] = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):/.exec(text) ?? [];
  const lastDay = new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate();
  return Number(day) <= lastDay && Number(hour) < 24;
}

function fromText(desc: DescMessage, text: string): unknown {
  try {
    return fromJson(desc, text);
  } catch {
    return undefined;
  }
}

// protobuf-es refuses snake_case here, which is how people know the fields from the proto.
function parseFieldMask(text: string): unknown {
  const names = text === "" ? [] : text.split(",");
  const pattern = /^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*$/;
  if (!names.every((name) => pattern.test(name))) {
    return undefined;
  }
  const toSnake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return create(FieldMaskSchema, { paths: names.map(toSnake) });
}
