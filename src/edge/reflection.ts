import {
  createRegistry,
  type DescExtension,
  type DescFile,
  type DescService,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, type ServiceImpl } from "@connectrpc/connect";
import type {
  ServerReflection,
  ServerReflectionRequest,
  ServerReflectionResponseSchema,
} from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import type { ServerReflection as ServerReflectionAlpha } from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";

type Answer = NonNullable<
  MessageInitShape<typeof ServerReflectionResponseSchema>["messageResponse"]
>;
type Question = ServerReflectionRequest["messageRequest"];

/** grpc.reflection, v1 and v1alpha alike, over the files of the given services. */
export function reflectionService({
  services,
}: {
  services: readonly DescService[];
}): ServiceImpl<typeof ServerReflection> & ServiceImpl<typeof ServerReflectionAlpha> {
  const index = createIndex(services);
  const service = {
    async *serverReflectionInfo(requests: AsyncIterable<ServerReflectionRequest>) {
      for await (const request of requests) {
        const messageResponse = answer(index, request.messageRequest);
        yield { validHost: request.host, originalRequest: request, messageResponse };
      }
    },
  };
  // The messages of the two versions differ in their package only.
  return service as typeof service & ServiceImpl<typeof ServerReflectionAlpha>;
}

interface Index {
  readonly services: readonly string[];
  readonly files: ReadonlyMap<string, DescFile>;
  readonly symbols: ReadonlyMap<string, DescFile>;
  /** By the name of the extended message. */
  readonly extensions: ReadonlyMap<string, readonly DescExtension[]>;
}

function createIndex(services: readonly DescService[]): Index {
  const files = new Map<string, DescFile>();
  for (const service of services) {
    addFile(files, service.file);
  }
  const symbols = new Map<string, DescFile>();
  const extensions = new Map<string, DescExtension[]>();
  for (const type of createRegistry(...files.values())) {
    symbols.set(type.typeName, type.file);
    for (const member of membersOf(type)) {
      symbols.set(member, type.file);
    }
    if (type.kind === "extension") {
      const others = extensions.get(type.extendee.typeName) ?? [];
      extensions.set(type.extendee.typeName, [...others, type]);
    }
  }
  return { services: services.map(({ typeName }) => typeName), files, symbols, extensions };
}

function membersOf(type: ReturnType<typeof createRegistry> extends Iterable<infer T> ? T : never) {
  switch (type.kind) {
    case "service":
      return type.methods.map(({ name }) => `${type.typeName}.${name}`);
    case "message":
      return [...type.fields, ...type.oneofs].map(({ name }) => `${type.typeName}.${name}`);
    case "enum": {
      // The values of an enum stand beside it, not within it.
      const scope = type.typeName.slice(0, type.typeName.lastIndexOf(".") + 1);
      return type.values.map(({ name }) => scope + name);
    }
    default:
      return [];
  }
}

function addFile(files: Map<string, DescFile>, file: DescFile): void {
  const { name } = file.proto;
  if (!files.has(name)) {
    files.set(name, file);
    for (const dependency of file.dependencies) {
      addFile(files, dependency);
    }
  }
}

function answer(index: Index, question: Question): Answer {
  switch (question.case) {
    case "listServices": {
      const service = index.services.map((name) => ({ name }));
      return { case: "listServicesResponse", value: { service } };
    }
    case "fileByFilename":
      return fileAnswer(index.files.get(question.value), question.value);
    case "fileContainingSymbol":
      return fileAnswer(index.symbols.get(question.value), question.value);
    case "fileContainingExtension": {
      const { containingType, extensionNumber } = question.value;
      const found = index.extensions
        .get(containingType)
        ?.find(({ number }) => number === extensionNumber);
      return fileAnswer(found?.file, `${containingType} extension ${extensionNumber}`);
    }
    case "allExtensionNumbersOfType": {
      const baseTypeName = question.value;
      if (!index.symbols.has(baseTypeName)) {
        return notFound(baseTypeName);
      }
      const extensionNumber = (index.extensions.get(baseTypeName) ?? []).map((one) => one.number);
      return { case: "allExtensionNumbersResponse", value: { baseTypeName, extensionNumber } };
    }
    default:
      return errorAnswer(Code.InvalidArgument, "Cannot answer: the request asks nothing");
  }
}

/** The file, then all that it needs. */
function fileAnswer(file: DescFile | undefined, name: string): Answer {
  if (file === undefined) {
    return notFound(name);
  }
  const all = new Map<string, DescFile>();
  addFile(all, file);
  const fileDescriptorProto = [...all.values()].map(({ proto }) =>
    toBinary(FileDescriptorProtoSchema, proto),
  );
  return { case: "fileDescriptorResponse", value: { fileDescriptorProto } };
}

function notFound(name: string): Answer {
  return errorAnswer(Code.NotFound, `Cannot find "${name}"`);
}

function errorAnswer(errorCode: Code, errorMessage: string): Answer {
  return { case: "errorResponse", value: { errorCode, errorMessage } };
}
