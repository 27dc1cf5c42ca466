import { execFileSync } from "node:child_process";
import { create, fromBinary, type JsonObject, type JsonValue } from "@bufbuild/protobuf";
import {
  CodeGeneratorRequestSchema,
  type FileDescriptorSet,
  FileDescriptorSetSchema,
} from "@bufbuild/protobuf/wkt";
import { openapiPlugin } from "./plugin.ts";

/** Where the project lies, with a slash at the end. */
export const rootPath = new URL("../../", import.meta.url).pathname;

/** Compile the protos of the project and of its tests. */
export function buildImage(): FileDescriptorSet {
  const bytes = execFileSync("node_modules/.bin/buf", ["build", "-o", "-#format=binpb"], {
    cwd: rootPath,
    timeout: 60_000,
    maxBuffer: 16 * 1024 * 1024,
  });
  return fromBinary(FileDescriptorSetSchema, bytes);
}

/** Whether a proto file is part of the product, not of its tests. */
export function isProduct(name: string): boolean {
  return !name.startsWith("callora/test/");
}

/** Whether a proto file may stand in one document with the product: no path of it is taken. */
export function isBeside(name: string): boolean {
  return isProduct(name) || name === "callora/test/v1/library_service.proto";
}

/** Run the plugin over some of the files of an image, in the order given. */
export function generate(image: FileDescriptorSet, names: readonly string[]): string {
  const request = create(CodeGeneratorRequestSchema, {
    fileToGenerate: [...names],
    protoFile: image.file,
    parameter: "target=ts",
  });
  const [file] = openapiPlugin().run(request).file;
  if (file?.name !== "openapi.json") {
    throw new Error(`Cannot use the plugin's output: its file is "${file?.name}"`);
  }
  return file.content ?? "";
}

/** The object that the keys lead to. Throws if there is none. */
export function at(value: JsonValue | undefined, ...keys: (string | number)[]): JsonObject {
  let found = value;
  for (const key of keys) {
    found = (found as JsonObject | undefined)?.[key];
  }
  if (typeof found !== "object") {
    throw new Error(`Cannot find an object at "${keys.join(" > ")}": it is ${found}`);
  }
  return found as JsonObject;
}

/** An operation and where it stands. */
export interface Place {
  readonly path: string;
  readonly method: string;
  readonly value: JsonObject;
}

/** Every operation of a document, those in the extension included. */
export function operationsOf(document: JsonObject): Place[] {
  return Object.entries(at(document, "paths")).flatMap(([path, item]) => {
    const { "x-callora-operations": others = {}, ...rest } = item as JsonObject;
    return Object.entries({ ...rest, ...(others as JsonObject) }).map(([method, value]) => ({
      path,
      method,
      value: value as JsonObject,
    }));
  });
}

/** The value and every object within it. */
export function* nodesOf(value: JsonValue): Generator<JsonObject> {
  if (Array.isArray(value)) {
    for (const item of value) {
      yield* nodesOf(item);
    }
  } else if (typeof value === "object" && value !== null) {
    yield value;
    for (const item of Object.values(value)) {
      yield* nodesOf(item);
    }
  }
}
