import type { Message } from "@bufbuild/protobuf";
import { type Any, anyPack } from "@bufbuild/protobuf/wkt";
import { Code as ConnectCode } from "@connectrpc/connect";
import { StreamType } from "../gen/connectrpc/conformance/v1/config_pb.ts";
import type {
  ConformancePayload_RequestInfo,
  Error as ErrorDefinition,
  Header,
  StreamResponseDefinition,
  UnaryResponseDefinition,
} from "../gen/connectrpc/conformance/v1/service_pb.ts";
import type { TestCase, TestRequest } from "../gen/connectrpc/conformance/v1/suite_pb.ts";
import type { Outcome } from "./outcome.ts";
import type { Request } from "./requests.ts";
import { registry } from "./suites.ts";

/** In what an outcome differs from what the case asks for, in words. Empty: in nothing. */
export function differences(
  test: TestCase,
  messages: readonly Request[],
  outcome: Outcome,
): string[] {
  const { request, expectedResponse } = test;
  if (request === undefined) {
    return ["the case has no request"];
  }
  if (expectedResponse !== undefined) {
    const { error, httpStatusCode, payloads } = expectedResponse;
    return [
      ...compareError(test, error, outcome),
      ...compare("HTTP status", outcome.httpStatus, httpStatusCode ?? outcome.httpStatus),
      ...compare("number of responses", outcome.payloads.length, payloads.length),
    ];
  }
  const defined = definitionOf(messages);
  return [
    ...compareError(test, defined.error, outcome),
    ...compareData(defined.data, outcome),
    ...compareHeaders("header", defined.headers, headersIn(outcome)),
    ...compareHeaders("trailer", defined.trailers, trailersIn(outcome)),
    ...compareInfo(request, messages, outcome),
  ];
}

interface Defined {
  readonly headers: readonly Header[];
  readonly trailers: readonly Header[];
  readonly data: readonly Uint8Array[];
  readonly error: ErrorDefinition | undefined;
}

/** What the first request asks the server to do. */
function definitionOf([first]: readonly Request[]): Defined {
  const { responseDefinition: definition } = first as Message & {
    responseDefinition?: UnaryResponseDefinition | StreamResponseDefinition;
  };
  const isStream = /\.(ServerStream|BidiStream)Request$/.test(first?.$typeName ?? "");
  if (definition === undefined) {
    const data = isStream ? [] : [new Uint8Array()];
    return { headers: [], trailers: [], data, error: undefined };
  }
  const { responseHeaders: headers, responseTrailers: trailers } = definition;
  if ("responseData" in definition) {
    return { headers, trailers, data: definition.responseData, error: definition.error };
  }
  const { response } = definition;
  return response.case === "error"
    ? { headers, trailers, data: [], error: response.value }
    : { headers, trailers, data: [response.value ?? new Uint8Array()], error: undefined };
}

function compare(what: string, actual: unknown, expected: unknown): string[] {
  return actual === expected ? [] : [`${what} is ${actual}, not ${expected}`];
}

function compareError(
  { otherAllowedErrorCodes }: TestCase,
  expected: ErrorDefinition | undefined,
  { error }: Outcome,
): string[] {
  if (expected === undefined || error === undefined) {
    const name = (code: number | undefined) => (code === undefined ? "none" : ConnectCode[code]);
    const note = error === undefined ? "" : ` (${error.message})`;
    return compare("error", name(error?.code) + note, name(expected?.code));
  }
  const allowed: number[] = [expected.code, ...otherAllowedErrorCodes];
  const message = expected.message ?? error.message;
  const wanted = allowed.map((code) => ConnectCode[code]).join(" or ");
  return [
    ...(allowed.includes(error.code)
      ? []
      : [`error is ${ConnectCode[error.code]} (${error.message}), not ${wanted}`]),
    ...compare("message", JSON.stringify(error.message), JSON.stringify(message)),
  ];
}

function compareData(expected: readonly Uint8Array[], { payloads }: Outcome): string[] {
  const toText = (data: readonly Uint8Array[]) =>
    data.map((one) => Buffer.from(one).toString("base64")).join(" ");
  return [
    ...compare("number of responses", payloads.length, expected.length),
    ...compare("data", toText(payloads.map(({ data }) => data)), toText(expected)),
  ];
}

/** An error before any response may carry everything in one block. */
function headersIn(outcome: Outcome): readonly Headers[] {
  const { headers, trailers, error, payloads } = outcome;
  return error !== undefined && payloads.length === 0 ? [headers, trailers] : [headers];
}

function trailersIn(outcome: Outcome): readonly Headers[] {
  const { headers, trailers, error, payloads } = outcome;
  return error !== undefined && payloads.length === 0 ? [headers, trailers] : [trailers];
}

function compareHeaders(
  what: string,
  expected: readonly Header[],
  blocks: readonly Headers[],
): string[] {
  return expected.flatMap(({ name, value }) => {
    const wanted = value.join(", ");
    const found = blocks.map((block) => block.get(name));
    return found.includes(wanted) ? [] : [`${what} ${name} is ${found[0]}, not ${wanted}`];
  });
}

/** What the server says it saw: in the first response, or in the error when there is none. */
function compareInfo(
  request: TestRequest,
  messages: readonly Request[],
  { payloads, error }: Outcome,
): string[] {
  const info = payloads.length > 0 ? payloads[0]?.requestInfo : error?.info;
  if (info === undefined) {
    const isExpected = payloads.length > 0 || error !== undefined;
    return isExpected ? ["what the server saw is missing"] : [];
  }
  const isFullDuplex = request.streamType === StreamType.FULL_DUPLEX_BIDI_STREAM;
  const isEach = isFullDuplex && payloads.length > 0;
  const later = isEach ? payloads.slice(1).map(({ requestInfo }) => requestInfo) : [];
  const seen = [info, ...later].flatMap((one) => one?.requests ?? []);
  const sent = new Headers();
  for (const { name, value } of request.requestHeaders) {
    for (const one of value) {
      sent.append(name, one);
    }
  }
  const got = new Headers(info.requestHeaders.map(({ name, value }) => [name, value.join(", ")]));
  return [
    ...compare("requests that the server saw", toText(seen), toText(messages.map(pack))),
    ...[...sent].flatMap(([name, value]) =>
      compare(`request header ${name}`, got.get(name), value),
    ),
    ...compareTimeout(request, info),
    ...compareGet(request, info),
  ];
}

function compareTimeout(
  { timeoutMs }: TestRequest,
  info: ConformancePayload_RequestInfo,
): string[] {
  const seen = info.timeoutMs;
  if (timeoutMs === undefined) {
    return compare("timeout", seen, undefined);
  }
  // What the network took may be gone from it.
  const isFine = seen !== undefined && seen <= BigInt(timeoutMs) && seen > BigInt(timeoutMs) - 500n;
  return isFine ? [] : [`timeout is ${seen}, not ${timeoutMs}`];
}

function compareGet(
  { useGetHttpMethod }: TestRequest,
  { connectGetInfo }: ConformancePayload_RequestInfo,
): string[] {
  const names = connectGetInfo?.queryParams.map(({ name }) => name) ?? [];
  const isGet = names.includes("message") && names.includes("encoding");
  return compare("call by GET", isGet, useGetHttpMethod);
}

function pack(message: Request): Any {
  const desc = registry.getMessage(message.$typeName);
  if (desc === undefined) {
    throw new Error(`Cannot pack a message of type ${message.$typeName}`);
  }
  return anyPack(desc, message);
}

function toText(messages: readonly Any[]): string {
  return messages
    .map(({ typeUrl, value }) => `${typeUrl} ${Buffer.from(value).toString("base64")}`)
    .join("\n");
}
