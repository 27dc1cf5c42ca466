import { deepStrictEqual } from "node:assert/strict";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { BenchService } from "../../test/gen/callora/test/v1/bench_service_pb.ts";
import { bearer, paths, question, verify } from "./calls.ts";
import type { CallKind } from "./load.ts";

const headers = { authorization: `Bearer ${bearer}` };

/** Throws unless the server gives the answer that all must give: a fast error is no speed. */
export async function checkAnswer(url: string, kind: CallKind): Promise<void> {
  const answer = await (kind === "grpc" ? askGrpc(url) : askHttp(url, kind));
  deepStrictEqual(answer, verify(question), `Cannot measure ${url}: its ${kind} answer is wrong`);
}

async function askHttp(url: string, kind: Exclude<CallKind, "grpc">): Promise<unknown> {
  const json = { ...headers, "content-type": "application/json" };
  const response = await fetch(url + paths[kind], {
    ...(kind === "get"
      ? { headers }
      : { method: "POST", headers: json, body: JSON.stringify(question) }),
  });
  return response.json();
}

async function askGrpc(baseUrl: string): Promise<unknown> {
  const sessionManager = new Http2SessionManager(baseUrl);
  const transport = createGrpcTransport({ baseUrl, sessionManager });
  try {
    const answer = await createClient(BenchService, transport).verifyKey(question, { headers });
    const { valid, keyId, ownerId, remaining, scopes } = answer;
    return { valid, keyId, ownerId, remaining, scopes };
  } finally {
    sessionManager.abort();
  }
}
