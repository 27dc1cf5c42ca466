import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  fromJson,
  type JsonValue,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type Interceptor,
} from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { credentials, Client as GrpcClient, Metadata, status } from "@grpc/grpc-js";
import { z } from "zod";
import { Mismatch } from "./report.ts";
import { type OnWait, type Outcome, patiently } from "./wait.ts";

/** How long one call may take. */
const callTimeoutMs = 15_000;

/** The clients of the demo. None of them is ours: what they do with the server, anybody's can. */
export interface Clients {
  /** A typed client over Connect, as the console has it. */
  connect<S extends DescService>(service: S, token?: string): Client<S>;
  /** One call over gRPC. */
  grpc<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    token: string,
    request: MessageInitShape<I>,
  ): Promise<MessageShape<O>>;
  /** One call over REST, as curl makes it. */
  rest<O extends DescMessage>(call: RestCall<O>): Promise<MessageShape<O>>;
  /** One request of any kind. */
  fetch(path: string, init: RequestInit): Promise<Response>;
  close(): void;
}

/** A call over REST. */
export interface RestCall<O extends DescMessage> {
  method: "GET" | "POST" | "PUT" | "DELETE";
  path: string;
  token?: string;
  body?: JsonValue;
  response: O;
}

/** Make clients of the server. Each waits its turn when the server says that it calls too often. */
export function createClients(baseUrl: string, onWait: OnWait): Clients {
  const { protocol, host, port } = new URL(baseUrl);
  const isSecure = protocol === "https:";
  const grpc = new GrpcClient(
    port === "" ? `${host}:${isSecure ? 443 : 80}` : host,
    isSecure ? credentials.createSsl() : credentials.createInsecure(),
    { "grpc.enable_http_proxy": 0 },
  );
  const request: Clients["fetch"] = (path, init) =>
    patiently(
      () => fetch(new URL(path, baseUrl), { ...init, signal: AbortSignal.timeout(callTimeoutMs) }),
      { retryAfterMs: responseWaitMs, onWait },
    );
  return {
    connect: (service, token) =>
      createClient(service, connectTransport(baseUrl, { token, onWait })),
    grpc: (method, token, request) =>
      patiently(() => grpcCall(grpc, { method, token, request }), {
        retryAfterMs: grpcWaitMs,
        onWait,
      }),
    rest: (call) => restCall(request, call),
    fetch: request,
    close: () => grpc.close(),
  };
}

function connectTransport(
  baseUrl: string,
  { token, onWait }: { token: string | undefined; onWait: OnWait },
) {
  const authenticate: Interceptor = (next) => (req) => {
    if (token !== undefined) {
      req.header.set("authorization", `Bearer ${token}`);
    }
    return next(req);
  };
  const wait: Interceptor = (next) => (req) =>
    patiently(() => next(req), { retryAfterMs: connectWaitMs, onWait });
  return createConnectTransport({
    baseUrl,
    interceptors: [authenticate, wait],
    // The transport's own deadline would count the waiting too.
    fetch: (input, init) => {
      const late = AbortSignal.timeout(callTimeoutMs);
      const signal = init?.signal ? AbortSignal.any([init.signal, late]) : late;
      return fetch(input, { ...init, signal });
    },
  });
}

function connectWaitMs(outcome: Outcome<unknown>): number | null {
  const error = "error" in outcome ? outcome.error : null;
  return error instanceof ConnectError && error.code === Code.ResourceExhausted
    ? waitMsOf(error.metadata.get("retry-after"))
    : null;
}

function grpcCall<I extends DescMessage, O extends DescMessage>(
  client: GrpcClient,
  {
    method,
    token,
    request,
  }: { method: DescMethodUnary<I, O>; token: string; request: MessageInitShape<I> },
): Promise<MessageShape<O>> {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      `/${method.parent.typeName}/${method.name}`,
      (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
      (bytes) => fromBinary(method.output, bytes),
      create(method.input, request),
      metadata,
      { deadline: Date.now() + callTimeoutMs },
      (error, reply) => {
        if (error !== null || reply === undefined) {
          reject(error ?? new Error("Cannot read the reply: it has no message"));
        } else {
          resolve(reply);
        }
      },
    );
  });
}

function grpcWaitMs(outcome: Outcome<unknown>): number | null {
  const error = "error" in outcome ? outcome.error : null;
  const isLimited =
    error instanceof Error && "code" in error && error.code === status.RESOURCE_EXHAUSTED;
  if (!isLimited || !("metadata" in error) || !(error.metadata instanceof Metadata)) {
    return null;
  }
  return waitMsOf(error.metadata.get("retry-after")[0]?.toString() ?? null);
}

async function restCall<O extends DescMessage>(
  request: Clients["fetch"],
  { method, path, token, body, response }: RestCall<O>,
): Promise<MessageShape<O>> {
  const reply = await request(path, {
    method,
    headers: {
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...(body !== undefined && { "content-type": "application/json" }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const text = await reply.text();
  if (!reply.ok) {
    const { message, reason } = readStatus(text);
    const got = `${reply.status} ${reason}: ${message}`;
    throw new Mismatch(`${method} ${path}`, { expected: "a success", got });
  }
  return fromJson(response, JSON.parse(text));
}

function responseWaitMs(outcome: Outcome<Response>): number | null {
  return "reply" in outcome && outcome.reply.status === 429
    ? waitMsOf(outcome.reply.headers.get("retry-after"))
    : null;
}

const statusBody = z.object({
  message: z.string(),
  details: z.array(z.looseObject({ reason: z.string().optional() })).default([]),
});

/** The message and the reason of an error's body. The body itself when it is none of ours. */
export function readStatus(text: string): { message: string; reason: string } {
  const result = z
    .string()
    .transform((body) => JSON.parse(body))
    .pipe(statusBody)
    .safeParse(/^\s*\{/.test(text) ? text : "{}");
  if (!result.success) {
    return { message: text.slice(0, 200), reason: "" };
  }
  const { message, details } = result.data;
  return { message, reason: details.find(({ reason }) => reason !== undefined)?.reason ?? "" };
}

/** From the seconds of a Retry-After header. A second when there is none. */
function waitMsOf(retryAfter: string | null): number {
  const seconds = Number(retryAfter ?? "1");
  return Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : 1000;
}
