import { once } from "node:events";
import { createServer, type IncomingMessage, type RequestListener } from "node:http";
import { createServer as createHttp2Server, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo, Server } from "node:net";
import { fileURLToPath } from "node:url";
import { create, toBinary } from "@bufbuild/protobuf";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  Server as GrpcServer,
  type handleUnaryCall,
  loadPackageDefinition,
  ServerCredentials,
  type ServiceClientConstructor,
} from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import fastify from "fastify";
import {
  BenchService,
  VerifyKeyResponseSchema,
} from "../../test/gen/callora/test/v1/bench_service_pb.ts";
import { type Answer, question, verify } from "./calls.ts";
import { benchService } from "./edge-server.ts";

/** Node's own HTTP server and JSON, and nothing else: the ceiling. */
export function startRaw(): Promise<number> {
  const onRequest: RequestListener = (request, response) => {
    if (request.method === "GET") {
      const [path = "", query] = (request.url ?? "").split("?");
      const cost = Number(new URLSearchParams(query).get("cost"));
      reply(verify({ key: decodeURIComponent(path.split("/")[3] ?? ""), cost }));
      return;
    }
    collect(request, (body) => reply(verify(JSON.parse(body))));

    function reply(answer: Answer): void {
      const text = JSON.stringify(answer);
      response.writeHead(200, {
        "content-type": "application/json",
        "content-length": Buffer.byteLength(text),
      });
      response.end(text);
    }
  };
  return listen(createServer(onRequest));
}

/** The least that Node can do over gRPC: its own HTTP/2 streams, and the same answer to everything. */
export function startRawHttp2(): Promise<number> {
  const message = toBinary(
    VerifyKeyResponseSchema,
    create(VerifyKeyResponseSchema, verify(question)),
  );
  const frame = Buffer.concat([Buffer.alloc(5), message]);
  frame.writeUInt32BE(message.length, 1);
  const server = createHttp2Server({ settings: { initialWindowSize: 1024 * 1024 } });
  server.on("stream", (stream: ServerHttp2Stream) => {
    stream.resume();
    stream.on("end", () => {
      stream.respond(
        { ":status": 200, "content-type": "application/grpc+proto" },
        { waitForTrailers: true },
      );
      stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
      stream.end(frame);
    });
  });
  return listen(server);
}

function collect(request: IncomingMessage, onEnd: (body: string) => void): void {
  const chunks: Buffer[] = [];
  request.on("data", (chunk: Buffer) => chunks.push(chunk));
  request.on("end", () => onEnd(Buffer.concat(chunks).toString()));
}

const id = { type: "string", minLength: 1, maxLength: 64 };
const cost = { type: "integer", minimum: 0, maximum: 1000 };
const answer = {
  type: "object",
  properties: {
    valid: { type: "boolean" },
    keyId: { type: "string" },
    ownerId: { type: "string" },
    remaining: { type: "integer" },
    scopes: { type: "array", items: { type: "string" } },
  },
};

/** Fastify as its documentation advises: schemas of what comes in and of what goes out. */
export async function startFastify(): Promise<number> {
  const app = fastify();
  const key = { type: "string", minLength: 8, maxLength: 128 };
  const body = { type: "object", required: ["key"], properties: { key, apiId: id, cost } };
  app.post<{ Body: { key: string; cost: number } }>(
    // Twice the colon: once it would begin a parameter.
    "/v1/keys::verify",
    { schema: { body, response: { 200: answer } } },
    async (request) => verify(request.body),
  );
  const params = { type: "object", properties: { keyId: id } };
  const querystring = {
    type: "object",
    properties: { apiId: id, cost, detailed: { type: "boolean" } },
  };
  app.get<{ Params: { keyId: string }; Querystring: { cost: number } }>(
    "/v1/keys/:keyId/check",
    { schema: { params, querystring, response: { 200: answer } } },
    async (request) => verify({ key: request.params.keyId, cost: request.query.cost }),
  );
  await app.listen({ host: "127.0.0.1", port: 0 });
  return portOf(app.server);
}

/** connect-node over HTTP/1.1. */
export function startConnectHttp1(): Promise<number> {
  return listen(createServer(connectHandler()));
}

/** connect-node over cleartext HTTP/2. */
export function startConnectHttp2(): Promise<number> {
  return listen(createHttp2Server(connectHandler()));
}

function connectHandler() {
  return connectNodeAdapter({ routes: (router) => router.service(BenchService, benchService()) });
}

/** grpc-js with the messages of proto-loader, as its documentation has it. */
export async function startGrpcJs(): Promise<number> {
  const toPath = (path: string) => fileURLToPath(new URL(path, import.meta.url));
  const definition = loadSync("callora/test/v1/bench_service.proto", {
    includeDirs: [toPath("../../test/proto"), toPath("../../proto")],
  });
  const loaded = loadPackageDefinition(definition) as unknown as {
    callora: { test: { v1: { BenchService: ServiceClientConstructor } } };
  };
  const verifyKey: handleUnaryCall<{ key: string; cost: number }, Answer> = (call, callback) =>
    callback(null, verify(call.request));
  const server = new GrpcServer();
  server.addService(loaded.callora.test.v1.BenchService.service, { verifyKey });
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
    error === null ? resolve(port) : reject(error),
  );
  return promise;
}

async function listen(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return portOf(server);
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}
