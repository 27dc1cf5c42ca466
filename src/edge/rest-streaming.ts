import { create, type DescMessage, type Message } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  createContextValues,
  createHandlerContext,
  type MethodImplSpec,
} from "@connectrpc/connect";
import { createAsyncIterable, transformInvokeImplementation } from "@connectrpc/connect/protocol";
import { exchangeKey } from "../rpc/call.ts";
import { RouteError } from "../rpc/errors.ts";
import { methodName } from "../rpc/policy.ts";
import { readParts } from "./body-stream.ts";
import { addVary, compressReply } from "./compress.ts";
import { deadlineOf } from "./deadline.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import { copyHeaders, sendReply, toHeaders } from "./http-message.ts";
import { bodyBytesMax, readBody } from "./read-body.ts";
import { sandboxHeaders } from "./rest/active-content.ts";
import { decodeBody, encodeBody } from "./rest/body.ts";
import { chooseEncoding } from "./rest/encoding.ts";
import { BindError, HttpError } from "./rest/errors.ts";
import { compilePath } from "./rest/field-path.ts";
import { getHttpBody, isHttpBody, setHttpBody } from "./rest/http-body.ts";
import { messagesFormatOf, negotiate, negotiateStream, requireJson } from "./rest/media-type.ts";
import { compileQuery } from "./rest/query.ts";
import type { RestRule } from "./rest/rules.ts";
import { createSplitter } from "./rest/split-json.ts";
import { statusJson, toConnectError } from "./rest/status.ts";
import { sendBytes, sendStream } from "./rest-stream.ts";
import type { HandlerDeps } from "./rpc-handler.ts";

/** A method of which one side streams, or both. */
export type StreamSpec = Exclude<MethodImplSpec, { kind: "unary" }>;

/** What REST endpoints of streams need. */
export type StreamDeps = HandlerDeps & {
  /** RPCs of which both sides stream that may be served with all requests before the first reply. */
  readonly halfDuplex?: ReadonlySet<string> | undefined;
};

/**
 * The endpoint of a stream over REST. Throws if both of its sides stream and it was not opted in: over
 * plain HTTP a client cannot count on being answered before it has sent everything.
 */
export function restStreamEndpoint(rule: RestRule, spec: StreamSpec, deps: StreamDeps): Endpoint {
  const rpc = methodName(rule.rpc);
  const path = rule.template.text;
  if (spec.kind === "bidi_streaming" && deps.halfDuplex?.has(rpc) !== true) {
    throw new Error(
      `Cannot map ${rpc} to "${path}": both sides stream, and halfDuplex does not name it`,
    );
  }
  const read = compileRead(rule, spec.kind, deps);
  const send = spec.kind === "client_streaming" ? sendOne : sendAll;
  return {
    method: rule.method,
    path,
    rpc,
    policy: deps.policyOf(rpc),
    protocolOf: () => "rest",
    async serve(hit) {
      const call = openContext(hit, spec, deps);
      try {
        await deps.admit(call.context);
        const requests = await read(hit);
        await send({ hit, rule, spec, deps, requests, context: call.context });
      } finally {
        call.close();
      }
    },
  };
}

interface Serving {
  readonly hit: Hit;
  readonly rule: RestRule;
  readonly spec: StreamSpec;
  readonly deps: StreamDeps;
  readonly requests: AsyncIterable<Message>;
  readonly context: ReturnType<typeof createHandlerContext>;
}

/** Compile what makes the request messages. Path and query go to the first of them alone. */
function compileRead(
  rule: RestRule,
  kind: StreamSpec["kind"],
  { registry }: StreamDeps,
): (hit: Hit) => Promise<AsyncIterable<Message>> {
  const { input } = rule.rpc;
  const { body } = rule;
  const bind = compileBind(rule);
  const isRaw = body !== undefined && isHttpBody(input, body);
  const decode = (bytes: Uint8Array) => decodeBody(input, body, bytes, { registry });

  return async (hit) => {
    const { arrival, request } = hit;
    const hasCookie = arrival.header("cookie") !== undefined;
    const contentType = arrival.header("content-type");
    // A path or query that does not fit is refused before the handler begins.
    bind(create(input), hit);
    const bound = (message: Message) => {
      bind(message, hit);
      return message;
    };
    if (kind === "server_streaming" || body === undefined) {
      if (isRaw) {
        const raw = { contentType: contentType ?? "", data: await readAny(hit) };
        return createAsyncIterable([bound(withRaw(rule, raw))]);
      }
      if (arrival.hasBody) {
        requireJson(contentType, { hasCookie });
      }
      return createAsyncIterable([bound(decode(await readAny(hit)))]);
    }
    if (isRaw) {
      return told(rawMessages(hit, rule, bound));
    }
    if (!arrival.hasBody) {
      return createAsyncIterable<Message>([]);
    }
    const format = messagesFormatOf(contentType, { hasCookie });
    const isHalfDuplex = kind === "bidi_streaming";
    const limits = isHalfDuplex ? { bytesMax: bodyBytesMax } : {};
    const splitter = createSplitter(format, bodyBytesMax);
    const messages = jsonMessages(readParts(request, limits), { splitter, decode, bound });
    return isHalfDuplex ? createAsyncIterable(await collect(messages)) : told(messages);
  };
}

async function readAny({ arrival }: Hit): Promise<Uint8Array> {
  return arrival.hasBody ? readBody(arrival) : new Uint8Array();
}

function compileBind(rule: RestRule): (message: Message, hit: Hit) => void {
  const { body } = rule;
  const paths = rule.pathFields.map(({ path }) => path);
  const bound = body === "*" ? body : [...paths, ...(body === undefined ? [] : [[body] as const])];
  const bindQuery = compileQuery(rule.rpc.input, bound);
  const bindPath = compilePath(rule.pathFields);
  return (message, { bindings, query }) => {
    if (query !== "") {
      bindQuery(message, query);
    }
    bindPath(message, bindings);
  };
}

async function* jsonMessages(
  parts: AsyncIterable<Uint8Array>,
  {
    splitter,
    decode,
    bound,
  }: {
    splitter: ReturnType<typeof createSplitter>;
    decode: (bytes: Uint8Array) => Message;
    bound: (message: Message) => Message;
  },
): AsyncIterable<Message> {
  let isFirst = true;
  const toMessage = (bytes: Uint8Array) => {
    const message = isFirst ? bound(decode(bytes)) : decode(bytes);
    isFirst = false;
    return message;
  };
  for await (const part of parts) {
    yield* splitter.push(part).map(toMessage);
  }
  yield* splitter.end().map(toMessage);
}

/** A message for each part of the body as it arrives, and one at least: the path may say it all. */
async function* rawMessages(
  { arrival, request }: Hit,
  rule: RestRule,
  bound: (message: Message) => Message,
): AsyncIterable<Message> {
  let isFirst = true;
  const toMessage = (data: Uint8Array) => {
    const contentType = isFirst ? (arrival.header("content-type") ?? "") : "";
    const message = withRaw(rule, { contentType, data });
    const whole = isFirst ? bound(message) : message;
    isFirst = false;
    return whole;
  };
  for await (const part of readParts(request)) {
    yield toMessage(part);
  }
  if (isFirst) {
    yield toMessage(new Uint8Array());
  }
}

function withRaw(rule: RestRule, raw: { contentType: string; data: Uint8Array }): Message {
  const message = create(rule.rpc.input);
  setHttpBody(message, rule.body ?? "*", raw);
  return message;
}

/** Turn what is wrong with a body into errors that pass a handler unchanged. */
async function* told<T>(messages: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (thrown) {
    if (!(thrown instanceof HttpError) && !(thrown instanceof BindError)) {
      throw thrown;
    }
    const error = toConnectError(thrown);
    // A mistake of the client's is nothing to report.
    error.cause = undefined;
    throw thrown instanceof HttpError ? new RouteError(thrown.status, error) : error;
  }
}

const finished = new ConnectError("the call has ended", Code.Canceled);
const clientLeft = new ConnectError("the client left", Code.Canceled);

/** What a handler learns of a call. close() frees what the context holds. */
function openContext(
  { request, response, exchange }: Hit,
  spec: StreamSpec,
  { shutdownSignal }: StreamDeps,
) {
  const timeoutMs = deadlineOf(request.headers);
  const left = new AbortController();
  const onClose = () => left.abort(clientLeft);
  response.once("close", onClose);
  const context = createHandlerContext({
    service: spec.method.parent,
    method: spec.method,
    protocolName: "rest",
    requestMethod: request.method ?? "",
    url: request.url ?? "",
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    requestSignal: left.signal,
    shutdownSignal,
    requestHeader: toHeaders(request),
    contextValues: createContextValues().set(exchangeKey, exchange),
  });
  return {
    context,
    close() {
      response.off("close", onClose);
      context.abort(finished);
    },
  };
}

function invoke({ spec, deps, requests, context }: Serving): AsyncIterable<Message> {
  const interceptors = [...deps.interceptors];
  return transformInvokeImplementation<DescMessage, DescMessage>(
    spec,
    context,
    interceptors,
  )(requests);
}

/** Answer a stream of requests. */
async function sendOne(serving: Serving): Promise<void> {
  const { hit, rule, deps, context } = serving;
  const { arrival } = hit;
  const isRaw = isHttpBody(rule.rpc.output, rule.responseBody);
  if (!isRaw && negotiate(arrival.header("accept")) === "none") {
    throw new HttpError(406, "Cannot answer in another form than application/json");
  }
  const [answer] = await collect(invoke(serving));
  if (answer === undefined) {
    throw new Error(`Cannot answer ${methodName(rule.rpc)}: its handler gave nothing`);
  }
  copyHeaders(context.responseHeader, arrival);
  copyHeaders(context.responseTrailer, arrival, "trailer-");
  const { contentType, data } = isRaw
    ? getHttpBody(answer, rule.responseBody)
    : { contentType: "application/json", data: toText(serving, answer) };
  const reply = {
    status: deps.policyOf(methodName(rule.rpc)).successStatus || 200,
    headers: { "content-type": contentType, ...(isRaw ? sandboxHeaders(contentType) : {}) },
    body: data,
  };
  sendReply(arrival, await compressReply(arrival, reply));
}

/** Answer with a stream. */
async function sendAll(serving: Serving): Promise<void> {
  const { hit, rule, deps, context } = serving;
  const { arrival, request, response } = hit;
  const target = {
    request,
    response,
    signal: context.signal,
    begin: () => copyHeaders(context.responseHeader, arrival),
    trailer: context.responseTrailer,
  };
  if (isHttpBody(rule.rpc.output, rule.responseBody)) {
    const parts = map(invoke(serving), (answer) => getHttpBody(answer, rule.responseBody));
    await sendBytes(target, parts);
    return;
  }
  addVary(arrival, "accept, accept-encoding");
  const format = negotiateStream(arrival.header("accept"));
  if (format === "none") {
    const forms = "application/x-ndjson, application/json or text/event-stream";
    throw new HttpError(406, `Cannot answer in another form than ${forms}`);
  }
  await sendStream(target, {
    texts: map(invoke(serving), (answer) => toText(serving, answer)),
    format,
    encoding: chooseEncoding(arrival.header("accept-encoding")),
    errorText: (error) => JSON.stringify(statusJson(toConnectError(error), deps.registry)),
  });
}

function toText({ rule, deps }: Serving, answer: Message): string {
  return encodeBody(rule.rpc.output, answer, rule.responseBody, { registry: deps.registry });
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) {
    collected.push(item);
  }
  return collected;
}

async function* map<From, To>(items: AsyncIterable<From>, change: (item: From) => To) {
  for await (const item of items) {
    yield change(item);
  }
}
