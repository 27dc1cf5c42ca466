import { fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { describe, expect, test } from "vitest";
import {
  ServerReflection,
  type ServerReflectionRequest,
} from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { startEdge } from "../../test/support/edge.ts";

type Question = ServerReflectionRequest["messageRequest"];

const libraryFile = "callora/test/v1/library_service.proto";

describe.for([ServerReflection, ServerReflectionAlpha])("$typeName", (reflection) => {
  async function ask(...questions: Question[]) {
    await using at = await startEdge();
    const transport = createGrpcTransport({ baseUrl: at.url });
    const client = createClient(reflection as typeof ServerReflection, transport);
    async function* requests() {
      for (const messageRequest of questions) {
        yield { host: "here", messageRequest };
      }
    }
    const answers = [];
    for await (const answer of client.serverReflectionInfo(requests())) {
      answers.push(answer);
    }
    return answers;
  }

  const symbol = (value: string): Question => ({ case: "fileContainingSymbol", value });
  const extension = (containingType: string, extensionNumber: number) =>
    ({
      case: "fileContainingExtension",
      value: {
        $typeName: "grpc.reflection.v1.ExtensionRequest",
        containingType,
        extensionNumber,
      },
    }) as const satisfies Question;

  test("what is not there is an error of its own, and the stream goes on", async () => {
    const answers = await ask(
      { case: "fileByFilename", value: "no.proto" },
      symbol("callora.test.v1.Nothing"),
      symbol(""),
      extension("google.protobuf.MethodOptions", 1),
      extension("callora.test.v1.Nothing", 50901),
      { case: "allExtensionNumbersOfType", value: "callora.test.v1.Nothing" },
      { case: undefined },
      { case: "listServices", value: "" },
    );

    const codes = answers.map(({ messageResponse: { case: kind, value } }) =>
      kind === "errorResponse" ? value.errorCode : kind,
    );
    expect(codes).toEqual([5, 5, 5, 5, 5, 5, 3, "listServicesResponse"]);
    expect(answers[0]).toMatchObject({
      validHost: "here",
      originalRequest: { messageRequest: { case: "fileByFilename", value: "no.proto" } },
      messageResponse: { value: { errorMessage: 'Cannot find "no.proto"' } },
    });
  });

  test.for([
    "callora.test.v1.LibraryService",
    "callora.test.v1.LibraryService.GetBook",
    "callora.test.v1.Book",
    "callora.test.v1.Book.title",
    "callora.test.v1.Everything.choice",
    "callora.test.v1.Genre",
    "callora.test.v1.GENRE_NOVEL",
  ])("the file of %s comes with all that it needs", async (name) => {
    const [answer] = await ask(symbol(name));

    const response = answer?.messageResponse;
    const files =
      response?.case === "fileDescriptorResponse"
        ? response.value.fileDescriptorProto.map((bytes) =>
            fromBinary(FileDescriptorProtoSchema, bytes),
          )
        : [];
    const names = new Set(files.map((file) => file.name));
    expect(files[0]?.name).toBe(libraryFile);
    expect(files.flatMap(({ dependency }) => dependency).filter((one) => !names.has(one))).toEqual(
      [],
    );
  });

  test("a type without extensions has none, and is no error", async () => {
    const [answer] = await ask({
      case: "allExtensionNumbersOfType",
      value: "callora.test.v1.Book",
    });

    expect(answer?.messageResponse).toMatchObject({
      case: "allExtensionNumbersResponse",
      value: { baseTypeName: "callora.test.v1.Book", extensionNumber: [] },
    });
  });
});
