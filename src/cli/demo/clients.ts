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
import { patiently } from "./wait.ts";

/** How long one call may take. */
export const callTimeoutMs = 15_000;

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
export function createClients(baseUrl: string): Clients {
  const { protocol, host, port } = new URL(baseUrl);
  const isSecure = protocol === "https:";
  const grpc = new GrpcClient(
    port === "" ? `${host}:${isSecure ? 443 : 80}` : host,
    isSecure ? credentials.createSsl() : credentials.createInsecure(),
    { "grpc.enable_http_proxy": 0 },
  );
  return {
    connect: (service, token) => createClient(service, connectTransport(baseUrl, token)),
    grpc: (method, token, request) =>
      patiently(
        () => grpcCall(grpc, { method, token, request }),
        (outcome) => ("error" in outcome ? grpcWaitMs(outcome.error) : null),
      ),
    rest: (call) => restCall(baseUrl, call),
    close: () => grpc.close(),
  };
}

function connectTransport(baseUrl: string, token: string | undefined) {
  const authenticate: Interceptor = (next) => (req) => {
    if (token !== undefined) {
      req.header.set("authorization", `Bearer ${token}`);
    }
    return next(req);
  };
  const wait: Interceptor = (next) => (req) =>
    patiently(
      () => next(req),
      (outcome) =>
        "error" in outcome &&
        outcome.error instanceof ConnectError &&
        outcome.error.code === Code.ResourceExhausted
          ? waitMsOf(outcome.error.metadata.get("retry-after"))
          : null,
    );
  return createConnectTransport({
    baseUrl,
    interceptors: [authenticate, wait],
    defaultTimeoutMs: callTimeoutMs,
  });
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

function grpcWaitMs(error: unknown): number | null {
  const isLimited =
    error instanceof Error && "code" in error && error.code === status.RESOURCE_EXHAUSTED;
  if (!isLimited || !("metadata" in error) || !(error.metadata instanceof Metadata)) {
    return null;
  }
  return waitMsOf(error.metadata.get("retry-after")[0]?.toString() ?? null);
}

async function restCall<O extends DescMessage>(
  baseUrl: string,
  { method, path, token, body, response }: RestCall<O>,
): Promise<MessageShape<O>> {
  const reply = await patiently(
    () =>
      fetch(new URL(path, baseUrl), {
        method,
        headers: {
          ...(token !== undefined && { authorization: `Bearer ${token}` }),
          ...(body !== undefined && { "content-type": "application/json" }),
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(callTimeoutMs),
      }),
    (outcome) => ("reply" in outcome ? responseWaitMs(outcome.reply) : null),
  );
  const text = await reply.text();
  if (!reply.ok) {
    const { message, reason } = readStatus(text);
    throw new Error(`${method} ${path} answered ${reply.status} ${reason}: ${message}`);
  }
  return fromJson(response, JSON.parse(text));
}

/** How long a reply asks its caller to wait. Null when it is not 429. */
export function responseWaitMs({ status, headers }: Response): number | null {
  return status === 429 ? waitMsOf(headers.get("retry-after")) : null;
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
