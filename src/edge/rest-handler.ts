import { create, type Message } from "@bufbuild/protobuf";
import { createServiceImplSpec, type MethodImplSpec } from "@connectrpc/connect";
import { methodName } from "../rpc/policy.ts";
import { compressReply } from "./compress.ts";
import { deadlineOf } from "./deadline.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import { headerOf, sendReply } from "./http-message.ts";
import { hasBody, readBody } from "./read-body.ts";
import { sandboxHeaders } from "./rest/active-content.ts";
import { decodeBody, encodeBody } from "./rest/body.ts";
import { HttpError } from "./rest/errors.ts";
import { compilePath } from "./rest/field-path.ts";
import { getHttpBody, isHttpBody, setHttpBody } from "./rest/http-body.ts";
import { negotiate, requireJson } from "./rest/media-type.ts";
import { compileQuery } from "./rest/query.ts";
import { type RestRule, restRoutes } from "./rest/rules.ts";
import { restStreamEndpoint } from "./rest-streaming.ts";
import type { HandlerDeps } from "./rpc-handler.ts";
import type { ServiceEntry } from "./service-entry.ts";
import {
  sendHeaders,
  sendTrailersAsHeaders,
  UnaryCall,
  type UnaryMethod,
  unaryMethod,
} from "./unary/invoke.ts";

/** The endpoints that the `google.api.http` annotations of the services ask for. */
export function restEndpoints(entries: readonly ServiceEntry[], deps: HandlerDeps): Endpoint[] {
  return entries.flatMap(({ service, implementation }) => {
    const { methods } = createServiceImplSpec(service, implementation);
    return restRoutes(service).map((rule) => {
      const spec = methods[rule.rpc.localName];
      if (spec === undefined) {
        throw new Error(`Cannot serve ${methodName(rule.rpc)}: it has no implementation`);
      }
      return spec.kind === "unary"
        ? restEndpoint(rule, spec, deps)
        : restStreamEndpoint(rule, spec, deps);
    });
  });
}

function restEndpoint(rule: RestRule, spec: UnarySpec, deps: HandlerDeps): Endpoint {
  const rpc = methodName(rule.rpc);
  const read = compileRead(rule, deps);
  const unary = unaryMethod(spec, deps);
  return {
    method: rule.method,
    path: rule.template.text,
    rpc,
    policy: deps.policyOf(rpc),
    protocolOf: () => "rest",
    serve: (hit) => serveUnary({ hit, rule, unary, read, deps }),
  };
}

type UnarySpec = Extract<MethodImplSpec, { kind: "unary" }>;

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
      const hasCookie = headerOf(request, "cookie") !== undefined;
      requireJson(headerOf(request, "content-type"), { hasCookie });
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

interface Serving {
  readonly hit: Hit;
  readonly rule: RestRule;
  readonly unary: UnaryMethod;
  readonly read: (hit: Hit) => Promise<Message>;
  readonly deps: HandlerDeps;
}

async function serveUnary({ hit, rule, unary, read, deps }: Serving): Promise<void> {
  const { request, response } = hit;
  const { output } = rule.rpc;
  const isRaw = isHttpBody(output, rule.responseBody);
  const timeoutMs = deadlineOf(request.headers);
  const call = new UnaryCall(unary, hit, timeoutMs);
  try {
    await call.admit();
    const message = await read(hit);
    if (!isRaw && negotiate(headerOf(request, "accept")) === "none") {
      throw new HttpError(406, "Cannot answer in another form than application/json");
    }
    const answer = await call.invoke(message);
    sendHeaders(call, response);
    sendTrailersAsHeaders(call, response);
    const { contentType, data } = isRaw
      ? getHttpBody(answer, rule.responseBody)
      : { contentType: "application/json", data: toText({ rule, deps }, answer) };
    const status = unary.policy.successStatus || 200;
    const headers = { "content-type": contentType, ...(isRaw ? sandboxHeaders(contentType) : {}) };
    const reply = compressReply(request, response, { status, headers, body: data });
    sendReply(request, response, reply instanceof Promise ? await reply : reply);
  } finally {
    call.close();
  }
}

function toText({ rule, deps }: Pick<Serving, "rule" | "deps">, answer: Message): string {
  return encodeBody(rule.rpc.output, answer, rule.responseBody, { registry: deps.registry });
}
