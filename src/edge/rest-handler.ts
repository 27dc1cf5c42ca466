import { create, type DescMessage, type Message } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  createContextValues,
  createHandlerContext,
  createServiceImplSpec,
  type MethodImplSpec,
} from "@connectrpc/connect";
import {
  createAsyncIterable,
  invokeUnaryImplementation,
  transformInvokeImplementation,
} from "@connectrpc/connect/protocol";
import { parseTimeout } from "@connectrpc/connect/protocol-connect";
import { exchangeKey } from "../rpc/call.ts";
import { methodName, type Policy } from "../rpc/policy.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import { copyHeaders, headerOf, sendReply, toHeaders } from "./http-message.ts";
import { hasBody, readBody } from "./read-body.ts";
import { decodeBody, encodeBody } from "./rest/body.ts";
import { HttpError } from "./rest/errors.ts";
import { compilePath } from "./rest/field-path.ts";
import { getHttpBody, isHttpBody, setHttpBody } from "./rest/http-body.ts";
import { negotiate, requireJson } from "./rest/media-type.ts";
import { compileQuery } from "./rest/query.ts";
import { type RestRule, restRoutes } from "./rest/rules.ts";
import { statusJson, toConnectError } from "./rest/status.ts";
import { sendBytes, sendStream, streamFormatOf } from "./rest-stream.ts";
import { type HandlerDeps, timeoutMsMax } from "./rpc-handler.ts";
import type { ServiceEntry } from "./service-entry.ts";

/** The endpoints that the `google.api.http` annotations of the services ask for. */
export function restEndpoints(entries: readonly ServiceEntry[], deps: HandlerDeps): Endpoint[] {
  return entries.flatMap(({ service, implementation }) => {
    const { methods } = createServiceImplSpec(service, implementation);
    return restRoutes(service).map((rule) => {
      const spec = methods[rule.rpc.localName];
      if (spec === undefined) {
        throw new Error(`Cannot serve ${methodName(rule.rpc)}: it has no implementation`);
      }
      return restEndpoint(rule, spec, deps);
    });
  });
}

function restEndpoint(rule: RestRule, spec: MethodImplSpec, deps: HandlerDeps): Endpoint {
  const rpc = methodName(rule.rpc);
  const policy = deps.policyOf(rpc);
  const read = compileRead(rule, deps);
  const serve = spec.kind === "unary" ? serveUnary : serveStream;
  return {
    method: rule.method,
    path: rule.template.text,
    rpc,
    policy,
    protocolOf: () => "rest",
    async serve(hit) {
      if (spec.kind === "client_streaming" || spec.kind === "bidi_streaming") {
        const message = "Cannot take a stream of messages over REST: use Connect or gRPC";
        throw new ConnectError(message, Code.Unimplemented);
      }
      const call = openContext(hit, spec, deps);
      try {
        await deps.admit(call.context);
        const message = await read(hit);
        await serve({ hit, rule, spec, policy, deps, message, context: call.context });
      } finally {
        call.close();
      }
    },
  };
}

interface Serving {
  readonly hit: Hit;
  readonly rule: RestRule;
  readonly spec: MethodImplSpec;
  readonly policy: Policy;
  readonly deps: HandlerDeps;
  readonly message: Message;
  readonly context: ReturnType<typeof createHandlerContext>;
}

/** Compile what makes the request message: the body first, then the query, then the path. */
function compileRead(rule: RestRule, { registry }: HandlerDeps): (hit: Hit) => Promise<Message> {
  const { input } = rule.rpc;
  const { body } = rule;
  const paths = rule.pathFields.map(({ path }) => path);
  const bound = body === "*" ? body : [...paths, ...(body === undefined ? [] : [[body] as const])];
  const bindQuery = compileQuery(input, bound);
  const bindPath = compilePath(rule.pathFields);
  const isRaw = body !== undefined && isHttpBody(input, body);

  return async ({ request, bindings, query }) => {
    let message: Message;
    if (isRaw) {
      const contentType = headerOf(request, "content-type") ?? "";
      message = create(input);
      setHttpBody(message, body, { contentType, data: await readBody(request) });
    } else if (hasBody(request)) {
      requireJson(headerOf(request, "content-type"));
      message = decodeBody(input, body, await readBody(request), { registry });
    } else {
      message = create(input);
    }
    if (query !== "") {
      bindQuery(message, query);
    }
    bindPath(message, bindings);
    return message;
  };
}

const finished = new ConnectError("the call has ended", Code.Canceled);
const clientLeft = new ConnectError("the client left", Code.Canceled);

/** What a handler learns of a REST call. close() frees what the context holds. */
function openContext(
  { request, response, exchange }: Hit,
  spec: MethodImplSpec,
  { shutdownSignal }: HandlerDeps,
) {
  const requestHeader = toHeaders(request);
  const timeout = parseTimeout(requestHeader.get("connect-timeout-ms"), timeoutMsMax);
  if (timeout.error !== undefined) {
    throw timeout.error;
  }
  const left = new AbortController();
  const onClose = () => left.abort(clientLeft);
  response.once("close", onClose);
  const context = createHandlerContext({
    service: spec.method.parent,
    method: spec.method,
    protocolName: "rest",
    requestMethod: request.method ?? "",
    url: request.url ?? "",
    ...(timeout.timeoutMs === undefined ? {} : { timeoutMs: timeout.timeoutMs }),
    requestSignal: left.signal,
    shutdownSignal,
    requestHeader,
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

async function serveUnary(serving: Serving): Promise<void> {
  const { hit, rule, spec, policy, deps, message, context } = serving;
  const { output } = rule.rpc;
  const isRaw = isHttpBody(output, rule.responseBody);
  if (!isRaw && negotiate(headerOf(hit.request, "accept")) === "none") {
    throw new HttpError(406, "Cannot answer in another form than application/json");
  }
  if (spec.kind !== "unary") {
    throw new Error(`Cannot serve ${methodName(spec.method)}: it is a stream`);
  }
  const answer = await invokeUnaryImplementation(spec, context, message, [...deps.interceptors]);
  copyHeaders(context.responseHeader, hit.response);
  copyHeaders(context.responseTrailer, hit.response, "trailer-");
  const { contentType, data } = isRaw
    ? getHttpBody(answer, rule.responseBody)
    : { contentType: "application/json", data: toText(serving, answer) };
  sendReply(hit.request, hit.response, {
    status: policy.successStatus || 200,
    headers: { "content-type": contentType },
    body: data,
  });
}

async function serveStream(serving: Serving): Promise<void> {
  const { hit, rule, spec, deps, message, context } = serving;
  const invoke = transformInvokeImplementation<DescMessage, DescMessage>(spec, context, [
    ...deps.interceptors,
  ]);
  const answers = invoke(createAsyncIterable([message]));
  const begin = () => copyHeaders(context.responseHeader, hit.response);
  if (isHttpBody(rule.rpc.output, rule.responseBody)) {
    const parts = map(answers, (answer) => getHttpBody(answer, rule.responseBody));
    await sendBytes(hit.response, parts, begin);
    return;
  }
  await sendStream(hit, {
    texts: map(answers, (answer) => toText(serving, answer)),
    format: streamFormatOf(headerOf(hit.request, "accept")),
    begin,
    errorText: (error) => JSON.stringify(statusJson(toConnectError(error), deps.registry)),
  });
}

function toText({ rule, deps }: Serving, answer: Message): string {
  return encodeBody(rule.rpc.output, answer, rule.responseBody, { registry: deps.registry });
}

async function* map<From, To>(items: AsyncIterable<From>, change: (item: From) => To) {
  for await (const item of items) {
    yield change(item);
  }
}
