import { create, type Message } from "@bufbuild/protobuf";
import { createServiceImplSpec, type MethodImplSpec } from "@connectrpc/connect";
import { Access } from "../../gen/callora/policy/v1/policy_pb.ts";
import { methodName, type Policy } from "../rpc/policy.ts";
import type { Arrival } from "./arrival.ts";
import { compressReply } from "./compress.ts";
import { deadlineOf } from "./deadline.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import { type Reply, sendReply } from "./http-message.ts";
import { compileReader } from "./json/read.ts";
import { compileWriter } from "./json/write.ts";
import { readBody } from "./read-body.ts";
import { sandboxHeaders } from "./rest/active-content.ts";
import { decodeBody, encodeBody } from "./rest/body.ts";
import { HttpError } from "./rest/errors.ts";
import { entityTag, namesTag } from "./rest/etag.ts";
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
  const write = compileWrite(rule, deps);
  const unary = unaryMethod(spec, deps);
  const { input, output } = rule.rpc;
  const isJson = {
    input: rule.body === undefined || !isHttpBody(input, rule.body),
    output: !isHttpBody(output, rule.responseBody),
  };
  return {
    method: rule.method,
    path: rule.template.text,
    rpc,
    policy: deps.policyOf(rpc),
    protocolOf: () => "rest",
    serve: (hit) => serveUnary({ hit, rule, unary, isJson, read, write }),
  };
}

type UnarySpec = Extract<MethodImplSpec, { kind: "unary" }>;

/** Compile what makes the request message: the body first, then the query, then the path. */
function compileRead(
  rule: RestRule,
  { registry }: HandlerDeps,
): (hit: Hit, bytes: Uint8Array) => Message {
  const { input } = rule.rpc;
  const { body } = rule;
  const paths = rule.pathFields.map(({ path }) => path);
  const bound = body === "*" ? body : [...paths, ...(body === undefined ? [] : [[body] as const])];
  const bindQuery = compileQuery(input, bound);
  const bindPath = compilePath(rule.pathFields);
  const isRaw = body !== undefined && isHttpBody(input, body);
  const readUsual = body === "*" ? compileReader(input) : undefined;

  return ({ arrival, bindings, query }, bytes) => {
    let message: Message;
    if (isRaw) {
      const contentType = arrival.header("content-type") ?? "";
      message = create(input);
      setHttpBody(message, body, { contentType, data: bytes });
    } else if (bytes.length > 0) {
      message = readUsual?.(bytes) ?? decodeBody(input, body, bytes, { registry });
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

/** Compile what makes the body of the reply. */
function compileWrite(
  { rpc: { output }, responseBody }: RestRule,
  { registry }: HandlerDeps,
): (answer: Message) => string {
  return responseBody === undefined
    ? compileWriter(output, { alwaysEmitImplicit: true, registry })
    : (answer) => encodeBody(output, answer, responseBody, { registry });
}

interface Serving {
  readonly hit: Hit;
  readonly rule: RestRule;
  readonly unary: UnaryMethod;
  /** Whether the bodies are JSON. Else they are taken as they come. */
  readonly isJson: { readonly input: boolean; readonly output: boolean };
  readonly read: (hit: Hit, bytes: Uint8Array) => Message;
  readonly write: (answer: Message) => string;
}

async function serveUnary({ hit, rule, unary, isJson, read, write }: Serving): Promise<void> {
  const { arrival } = hit;
  const call = new UnaryCall(unary, hit, deadlineOf(arrival.headers));
  try {
    const admitted = call.admit();
    if (admitted !== undefined) {
      await admitted;
    }
    let bytes: Uint8Array = nothing;
    if (arrival.hasBody) {
      if (isJson.input) {
        requireType(arrival);
      }
      bytes = await readBody(arrival);
    }
    const message = read(hit, bytes);
    if (isJson.output && negotiate(arrival.header("accept")) === "none") {
      throw new HttpError(406, "Cannot answer in another form than application/json");
    }
    const answering = call.invoke(message);
    const answer = answering instanceof Promise ? await answering : answering;
    sendHeaders(call, arrival);
    sendTrailersAsHeaders(call, arrival);
    const status = unary.policy.successStatus || 200;
    const reply = isJson.output
      ? jsonReply({ status, body: write(answer), policy: unary.policy, arrival })
      : rawReply(status, getHttpBody(answer, rule.responseBody));
    const packed = compressReply(arrival, reply);
    sendReply(arrival, packed instanceof Promise ? await packed : packed);
  } finally {
    call.close();
  }
}

const jsonHeaders = { "content-type": "application/json" };

interface JsonReplying {
  status: number;
  body: string;
  policy: Policy;
  arrival: Arrival;
}

/** Where the policy says so, a reader who has the reply already is told that and no more. */
function jsonReply({ status, body, policy, arrival }: JsonReplying): Reply {
  if (policy.validated !== true) {
    return { status, headers: jsonHeaders, body };
  }
  const etag = entityTag(body);
  const isPublic = policy.access === Access.PUBLIC;
  const headers = { etag, "cache-control": isPublic ? "no-cache" : "private, no-cache" };
  return namesTag(arrival.header("if-none-match"), etag)
    ? { status: 304, headers, body: "" }
    : { status, headers: { ...jsonHeaders, ...headers }, body };
}

function rawReply(status: number, { contentType, data }: ReturnType<typeof getHttpBody>): Reply {
  const headers = { "content-type": contentType, ...sandboxHeaders(contentType) };
  return { status, headers, body: data };
}

const nothing = new Uint8Array();

function requireType(arrival: Arrival): void {
  const hasCookie = arrival.header("cookie") !== undefined;
  requireJson(arrival.header("content-type"), { hasCookie });
}
