import {
  type DescField,
  type DescMessage,
  getOption,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf";
import { isReflectMessage, type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { field as fieldRules, Ignore } from "../../gen/buf/validate/validate_pb.ts";
import type { Violation } from "./errors.ts";

const violationsMax = 20;

/** The seconds of the first and the last moment of google.protobuf.Timestamp: the years 1 to 9999. */
const secondsMin = -62_135_596_800n;
const secondsMax = 253_402_300_799n;

/**
 * What no field of a request may hold, whatever its own limits say: text that PostgreSQL cannot store, and times
 * that are none. JSON brings neither kind of time; the binary form brings both.
 */
export function malformedFields(desc: DescMessage, message: Message): Violation[] {
  if (isClean(desc, message)) {
    return [];
  }
  const found: Violation[] = [];
  visit(reflect(desc, message), "", found);
  return found;
}

type Check = (message: Fields) => boolean;

type Fields = Readonly<Record<string, unknown>>;

// By type, since nearly all requests are clean, and reflection costs more than most handlers.
const checks = new WeakMap<DescMessage, Check>();

/** Whether nothing is malformed. False also where only reflection can tell. */
function isClean(desc: DescMessage, message: Message): boolean {
  let check = checks.get(desc);
  if (check === undefined) {
    const made = desc.fields.flatMap(compileCheck);
    check = (fields) => made.every((one) => one(fields));
    checks.set(desc, check);
  }
  return check(message as unknown as Fields);
}

/** Checks a field, if it can hold anything malformed. */
function compileCheck(field: DescField): Check[] {
  const name = field.localName;
  if (field.oneof !== undefined) {
    const group = field.oneof.localName;
    const mayBeWrong = field.scalar === ScalarType.STRING || field.message !== undefined;
    return mayBeWrong ? [(message) => (message[group] as { case?: string }).case !== name] : [];
  }
  if (field.fieldKind === "list") {
    if (
      isLeftToHandler(field) ||
      (field.listKind === "scalar" && field.scalar !== ScalarType.STRING)
    ) {
      return [];
    }
    const hasText = field.listKind === "scalar";
    return [(message) => (message[name] as unknown[]).every((item) => hasText && isText(item))];
  }
  if (field.fieldKind === "map") {
    return [(message) => Object.keys(message[name] as object).length === 0];
  }
  if (field.fieldKind === "message") {
    return [(message) => message[name] === undefined];
  }
  return field.scalar === ScalarType.STRING
    ? [(message) => message[name] === undefined || isText(message[name])]
    : [];
}

function isText(value: unknown): boolean {
  return typeof value === "string" && !value.includes("\0");
}

function visit(value: unknown, path: string, found: Violation[]): void {
  if (found.length >= violationsMax) {
    return;
  }
  if (typeof value === "string") {
    if (value.includes("\0")) {
      found.push({ field: path, description: "must not hold the character U+0000" });
    }
  } else if (isReflectMessage(value)) {
    visitMessage(value, path, found);
  }
}

function visitMessage(message: ReflectMessage, path: string, found: Violation[]): void {
  if (message.desc.typeName === "google.protobuf.Timestamp") {
    if (!isTime(message)) {
      found.push({ field: path, description: "must be a time in the years 1 to 9999" });
    }
    return;
  }
  for (const field of message.fields) {
    if (!message.isSet(field)) {
      continue;
    }
    const at = path === "" ? field.name : `${path}.${field.name}`;
    if (field.fieldKind === "list") {
      if (isLeftToHandler(field)) {
        continue;
      }
      for (const [index, item] of [...message.get(field)].entries()) {
        visit(item, `${at}[${index}]`, found);
      }
    } else if (field.fieldKind === "map") {
      for (const [key, item] of message.get(field)) {
        visit(key, at, found);
        visit(item, `${at}[${JSON.stringify(key)}]`, found);
      }
    } else {
      visit(message.get(field), at, found);
    }
  }
}

/** The contract can leave what a list holds to its handler, which then checks all of it. */
function isLeftToHandler(field: DescField): boolean {
  const { type } = getOption(field, fieldRules);
  return type.case === "repeated" && type.value.items?.ignore === Ignore.ALWAYS;
}

function isTime(message: ReflectMessage): boolean {
  const [seconds, nanos] = message.fields.map((field) => message.get(field));
  return (
    typeof seconds === "bigint" &&
    typeof nanos === "number" &&
    seconds >= secondsMin &&
    seconds <= secondsMax &&
    nanos >= 0 &&
    nanos <= 999_999_999
  );
}
