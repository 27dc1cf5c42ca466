import { setTimeout as sleep } from "node:timers/promises";
import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { type Any, anyPack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import {
  BidiStreamRequestSchema,
  ClientStreamRequestSchema,
  type ConformancePayload,
  type ConformancePayload_RequestInfo,
  ConformancePayload_RequestInfoSchema,
  ConformancePayloadSchema,
  type ConformanceService,
  type Error as ErrorDefinition,
  type Header,
  HeaderSchema,
  IdempotentUnaryRequestSchema,
  ServerStreamRequestSchema,
  type StreamResponseDefinition,
  UnaryRequestSchema,
  type UnaryResponseDefinition,
} from "../gen/connectrpc/conformance/v1/service_pb.ts";

/** A service whose every call does as its first request says. */
export function conformanceService(): ServiceImpl<typeof ConformanceService> {
  return {
    unary: async (request, context) => ({
      payload: await answer(
        request.responseDefinition,
        [pack(UnaryRequestSchema, request)],
        context,
      ),
    }),
    idempotentUnary: async (request, context) => {
      const requests = [pack(IdempotentUnaryRequestSchema, request)];
      return { payload: await answer(request.responseDefinition, requests, context) };
    },
    unimplemented() {
      throw new ConnectError("not implemented", Code.Unimplemented);
    },
    async clientStream(incoming, context) {
      const requests: Any[] = [];
      let definition: UnaryResponseDefinition | undefined;
      for await (const request of incoming) {
        definition = requests.length === 0 ? request.responseDefinition : definition;
        requests.push(pack(ClientStreamRequestSchema, request));
      }
      return { payload: await answer(definition, requests, context) };
    },
    async *serverStream(request, context) {
      const requests = [pack(ServerStreamRequestSchema, request)];
      setMetadata(request.responseDefinition, context);
      const begin = { info: infoOf(context, requests), sent: 0 };
      for await (const payload of remaining(request.responseDefinition, begin, context)) {
        yield { payload };
      }
    },
    async *bidiStream(incoming, context) {
      const requests: Any[] = [];
      let definition: StreamResponseDefinition | undefined;
      let isFullDuplex = false;
      let sent = 0;
      for await (const request of incoming) {
        if (requests.length === 0) {
          definition = request.responseDefinition;
          isFullDuplex = request.fullDuplex;
          setMetadata(definition, context);
        }
        const packed = pack(BidiStreamRequestSchema, request);
        requests.push(packed);
        if (isFullDuplex) {
          const data = definition?.responseData[sent];
          if (data === undefined) {
            break;
          }
          await delay(definition, context);
          const requestInfo =
            sent === 0
              ? infoOf(context, [packed])
              : create(ConformancePayload_RequestInfoSchema, { requests: [packed] });
          sent += 1;
          yield { payload: create(ConformancePayloadSchema, { data, requestInfo }) };
        }
      }
      const begin = { info: infoOf(context, requests), sent };
      for await (const payload of remaining(definition, begin, context)) {
        yield { payload };
      }
    },
  };
}

type Definition = UnaryResponseDefinition | StreamResponseDefinition | undefined;

async function answer(
  definition: UnaryResponseDefinition | undefined,
  requests: Any[],
  context: HandlerContext,
): Promise<ConformancePayload> {
  setMetadata(definition, context);
  const requestInfo = infoOf(context, requests);
  await delay(definition, context);
  if (definition?.response.case === "error") {
    throw toError(definition.response.value, requestInfo);
  }
  const data = definition?.response.value ?? new Uint8Array();
  return create(ConformancePayloadSchema, { data, requestInfo });
}

/** The responses of a stream from `sent` on, and the error after them. */
async function* remaining(
  definition: StreamResponseDefinition | undefined,
  { info, sent }: { info: ConformancePayload_RequestInfo; sent: number },
  context: HandlerContext,
): AsyncGenerator<ConformancePayload> {
  for (const [index, data] of definition?.responseData.entries() ?? []) {
    if (index >= sent) {
      await delay(definition, context);
      const more = index === 0 ? { requestInfo: info } : {};
      yield create(ConformancePayloadSchema, { data, ...more });
    }
  }
  if (definition?.error !== undefined) {
    throw toError(definition.error, definition.responseData.length === 0 ? info : undefined);
  }
}

function setMetadata(definition: Definition, context: HandlerContext): void {
  for (const { name, value } of definition?.responseHeaders ?? []) {
    for (const one of value) {
      context.responseHeader.append(name, one);
    }
  }
  for (const { name, value } of definition?.responseTrailers ?? []) {
    for (const one of value) {
      context.responseTrailer.append(name, one);
    }
  }
}

async function delay(definition: Definition, { signal }: HandlerContext): Promise<void> {
  try {
    await sleep(definition?.responseDelayMs ?? 0, undefined, { signal });
  } catch {
    throw signal.reason;
  }
}

function toError(
  { code, message, details }: ErrorDefinition,
  info: ConformancePayload_RequestInfo | undefined,
): ConnectError {
  const error = new ConnectError(message ?? "", code as number as Code);
  error.details = details.map(({ typeUrl, value }) => ({
    type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1),
    value,
  }));
  if (info !== undefined) {
    error.details.push({ desc: ConformancePayload_RequestInfoSchema, value: info });
  }
  return error;
}

function infoOf(context: HandlerContext, requests: Any[]): ConformancePayload_RequestInfo {
  const timeoutMs = context.timeoutMs();
  const isGet = context.requestMethod === "GET";
  return create(ConformancePayload_RequestInfoSchema, {
    requestHeaders: toHeaders(context.requestHeader),
    requests,
    ...(timeoutMs === undefined ? {} : { timeoutMs: BigInt(Math.floor(timeoutMs)) }),
    ...(isGet ? { connectGetInfo: { queryParams: queryOf(context.url) } } : {}),
  });
}

function queryOf(url: string): Header[] {
  const { searchParams } = new URL(url, "http://localhost");
  return [...searchParams].map(([name, value]) => create(HeaderSchema, { name, value: [value] }));
}

function toHeaders(headers: Headers): Header[] {
  return [...headers].map(([name, value]) => create(HeaderSchema, { name, value: [value] }));
}

function pack<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>): Any {
  return anyPack(schema, message);
}
