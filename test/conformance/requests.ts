import { type DescMethod, type Message, toBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { StreamType } from "../gen/connectrpc/conformance/v1/config_pb.ts";
import { ConformanceService } from "../gen/connectrpc/conformance/v1/service_pb.ts";
import type { TestCase, TestRequest } from "../gen/connectrpc/conformance/v1/suite_pb.ts";
import { registry } from "./suites.ts";

/** A request of any method: all have room for data. */
export type Request = Message & { requestData?: Uint8Array };

const methodNames: Readonly<Record<number, string>> = {
  [StreamType.UNARY]: "Unary",
  [StreamType.CLIENT_STREAM]: "ClientStream",
  [StreamType.SERVER_STREAM]: "ServerStream",
  [StreamType.HALF_DUPLEX_BIDI_STREAM]: "BidiStream",
  [StreamType.FULL_DUPLEX_BIDI_STREAM]: "BidiStream",
};

/** The method that a case calls. */
export function methodOf({ method, streamType }: TestRequest): DescMethod {
  const name = method === "" ? methodNames[streamType] : method;
  const found = ConformanceService.methods.find((one) => one.name === name);
  if (found === undefined) {
    throw new Error(`Cannot find method "${name}"`);
  }
  return found;
}

/** The requests of a case, grown as it asks. `bytesMax` is what the server takes. */
export function requestsOf(test: TestCase, bytesMax: number): Request[] {
  const { request, expandRequests } = test;
  return (request?.requestMessages ?? []).map((any, index) => {
    const message: Request | undefined = anyUnpack(any, registry);
    if (message === undefined) {
      throw new Error(`Cannot read request of type ${any.typeUrl}`);
    }
    const relative = expandRequests[index]?.sizeRelativeToLimit;
    if (relative !== undefined) {
      grow(message, bytesMax + relative);
    }
    return message;
  });
}

/** Fill the message's data until it has this many bytes on the wire. */
function grow(message: Request, bytes: number): void {
  const desc = registry.getMessage(message.$typeName);
  if (desc === undefined) {
    throw new Error(`Cannot grow a message of type ${message.$typeName}`);
  }
  message.requestData = new Uint8Array(bytes);
  const excess = toBinary(desc, message).length - bytes;
  message.requestData = new Uint8Array(bytes - excess);
  const size = toBinary(desc, message).length;
  if (size !== bytes) {
    throw new Error(`Cannot make a message of ${bytes} bytes: it has ${size}`);
  }
}
