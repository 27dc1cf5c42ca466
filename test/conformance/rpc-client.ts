import { Agent } from "node:http";
import { Agent as TlsAgent } from "node:https";
import { setTimeout as sleep } from "node:timers/promises";
import type { DescMethodStreaming, DescMethodUnary, Message } from "@bufbuild/protobuf";
import { ConnectError, type Transport } from "@connectrpc/connect";
import {
  compressionBrotli,
  compressionGzip,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import {
  Codec,
  Compression,
  Protocol,
  StreamType,
  HTTPVersion as Version,
} from "../gen/connectrpc/conformance/v1/config_pb.ts";
import {
  type ConformancePayload,
  ConformancePayload_RequestInfoSchema,
  type Header,
} from "../gen/connectrpc/conformance/v1/service_pb.ts";
import type { TestRequest } from "../gen/connectrpc/conformance/v1/suite_pb.ts";
import type { Outcome } from "./outcome.ts";
import { methodOf, type Request } from "./requests.ts";
import { nameOf, registry, type Setup } from "./suites.ts";

/** What a client over TLS trusts and shows, as PEM. */
export interface ClientTls {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** Clients of a server, one for each setup. close() ends their connections. */
export function createRpcClients(baseUrl: string, tls: ClientTls | undefined) {
  const pool = { keepAlive: true, maxSockets: 16 };
  const agent = tls === undefined ? new Agent(pool) : new TlsAgent({ ...pool, ...tls });
  const managers = new Map<string, Http2SessionManager>();

  function managerOf(setup: Setup): Http2SessionManager {
    const name = nameOf(setup);
    // What is left to send of refused requests counts for as long as the session lives.
    const manager =
      managers.get(name) ??
      new Http2SessionManager(baseUrl, {}, { maxSessionMemory: 4_000, ...tls });
    managers.set(name, manager);
    return manager;
  }

  return {
    /** Make the call of a case. */
    call(
      setup: Setup,
      request: TestRequest,
      messages: readonly Request[],
      signal: AbortSignal,
    ): Promise<Outcome> {
      const options = { ...optionsOf(setup, request.useGetHttpMethod), baseUrl };
      const transport = transportOf(setup, { ...options, agent, sessionManager: managerOf(setup) });
      return request.streamType === StreamType.UNARY
        ? callUnary(transport, request, messages, signal)
        : callStream(transport, request, messages, signal);
    },
    close(): void {
      agent.destroy();
      for (const manager of managers.values()) {
        manager.abort();
      }
    },
  };
}

function optionsOf({ codec, compression }: Setup, useHttpGet: boolean) {
  const chosen =
    compression === Compression.GZIP
      ? compressionGzip
      : compression === Compression.BR
        ? compressionBrotli
        : undefined;
  return {
    useBinaryFormat: codec === Codec.PROTO,
    useHttpGet,
    jsonOptions: { registry },
    compressMinBytes: 0,
    acceptCompression: chosen === undefined ? [] : [chosen],
    ...(chosen === undefined ? {} : { sendCompression: chosen }),
  };
}

function transportOf(
  { version, protocol }: Setup,
  options: ReturnType<typeof optionsOf> & {
    baseUrl: string;
    agent: Agent;
    sessionManager: Http2SessionManager;
  },
): Transport {
  const { agent, ...rest } = options;
  const { sessionManager, ...plain } = rest;
  if (protocol === Protocol.GRPC) {
    return createGrpcTransport(rest);
  }
  const create = protocol === Protocol.CONNECT ? createConnectTransport : createGrpcWebTransport;
  return version === Version.HTTP_VERSION_1
    ? create({ ...plain, httpVersion: "1.1", nodeOptions: { agent } })
    : create({ ...rest, httpVersion: "2" });
}

async function callUnary(
  transport: Transport,
  request: TestRequest,
  messages: readonly Request[],
  signal: AbortSignal,
): Promise<Outcome> {
  const [message] = messages;
  if (message === undefined) {
    throw new Error("Cannot make a unary call without a request");
  }
  const method = methodOf(request) as DescMethodUnary;
  const header = headersOf(request.requestHeaders);
  try {
    const reply = await transport.unary(method, signal, request.timeoutMs, header, message);
    const payloads = [payloadOf(reply.message)];
    return { headers: reply.header, trailers: reply.trailer, payloads };
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    return { ...failure(error), headers: error.metadata, trailers: error.metadata, payloads: [] };
  }
}

async function callStream(
  transport: Transport,
  request: TestRequest,
  messages: readonly Request[],
  signal: AbortSignal,
): Promise<Outcome> {
  const { requestHeaders, requestDelayMs, streamType, timeoutMs } = request;
  const isFullDuplex = streamType === StreamType.FULL_DUPLEX_BIDI_STREAM;
  const method = methodOf(request) as DescMethodStreaming;
  const header = headersOf(requestHeaders);
  const payloads: ConformancePayload[] = [];
  let ended = false;
  let wake = () => {};

  async function* send(): AsyncGenerator<Message> {
    for (const [index, message] of messages.entries()) {
      await sleep(requestDelayMs);
      while (isFullDuplex && payloads.length < index && !ended) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      yield message;
    }
  }

  let headers = new Headers();
  let trailers = new Headers();
  try {
    const reply = await transport.stream(method, signal, timeoutMs, header, send());
    headers = reply.header;
    trailers = reply.trailer;
    for await (const message of reply.message) {
      payloads.push(payloadOf(message));
      wake();
    }
    return { headers, trailers, payloads };
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    for (const [name, value] of error.metadata) {
      trailers.set(name, value);
    }
    return { ...failure(error), headers, trailers, payloads };
  } finally {
    ended = true;
    wake();
  }
}

function failure(error: ConnectError): Pick<Outcome, "error"> {
  const [info] = error.findDetails(ConformancePayload_RequestInfoSchema);
  return { error: { code: error.code, message: error.rawMessage, info } };
}

function payloadOf(message: Message): ConformancePayload {
  const { payload } = message as Message & { payload?: ConformancePayload };
  if (payload === undefined) {
    throw new Error("Cannot read response: it has no payload");
  }
  return payload;
}

function headersOf(list: readonly Header[]): Headers {
  const headers = new Headers();
  for (const { name, value } of list) {
    for (const one of value) {
      headers.append(name, one);
    }
  }
  return headers;
}
