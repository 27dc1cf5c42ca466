import { once } from "node:events";
import { connect as connectTcp } from "node:net";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect, test } from "vitest";
import { CatalogService } from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { Access, RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { LibraryService } from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { libraryService, mount, noSteps, startEdge } from "../../test/support/edge.ts";
import { openPolicy } from "../rpc/policy.ts";
import type { ServingStatus } from "./health.ts";
import { endResponse, writeChunk } from "./http-message.ts";
import { createEdge } from "./server.ts";
import { entry } from "./service-entry.ts";

const quiet = { steps: noSteps, onFinish: () => {}, onError: () => {} };
const library = entry(LibraryService, libraryService(), openPolicy);

test("a method without a policy stops the start, and is named", () => {
  const services = [entry(LibraryService, libraryService())];

  expect(() => createEdge({ ...quiet, services })).toThrow(
    "Cannot serve callora.test.v1.LibraryService/GetBook: it has no (callora.policy.v1.method)",
  );
});

test("half a policy stops the start too", () => {
  const policy = { ...openPolicy, rateClass: RateClass.UNSPECIFIED };

  expect(() =>
    createEdge({ ...quiet, services: [entry(LibraryService, libraryService(), policy)] }),
  ).toThrow("Cannot serve callora.test.v1.LibraryService/GetBook: its policy does not say how");
  expect(() =>
    createEdge({ ...quiet, services: [], mounts: [mount("GET", "/a", { policy })] }),
  ).toThrow("Cannot serve GET /a: its policy does not say how often");
});

test.for([
  { what: "two mounts", mounts: [mount("GET", "/a/{x}"), mount("GET", "/a/{y}")] },
  { what: "a mount and REST", mounts: [mount("GET", "/v1/books/{x}")] },
  {
    what: "a mount and an RPC",
    mounts: [mount("POST", "/callora.test.v1.LibraryService/GetBook")],
  },
])("$what that clash stop the start", ({ mounts }) => {
  expect(() => createEdge({ ...quiet, services: [library], mounts })).toThrow(/Cannot add route/);
});

test("a service registered twice stops the start, and is named", () => {
  expect(() => createEdge({ ...quiet, services: [library, library] })).toThrow(
    /LibraryService\/GetBook/,
  );
});

test("routes lists every protocol's paths with their policy", async () => {
  await using at = await startEdge({ mounts: [mount("ANY", "/v1/call/{api}/{path=**}")] });

  const routes = at.edge.routes();

  expect(routes).toContainEqual({
    method: "POST",
    path: "/api/apis",
    rpc: "callora.catalog.v1.CatalogService/CreateApi",
    access: "DEVELOPER",
    rateClass: "CONSOLE",
  });
  expect(routes).toContainEqual({
    method: "*",
    path: "/v1/call/{api}/{path=**}",
    rpc: "",
    access: "PUBLIC",
    rateClass: "NONE",
  });
  expect(routes.map(({ path }) => path)).toContain("/callora.catalog.v1.CatalogService/ListApis");
});

test("a mount gets its parameters and the steps of every call", async () => {
  const policy = { ...openPolicy, access: Access.USER, rateClass: RateClass.CONSOLE };
  const seen: unknown[] = [];
  await using at = await startEdge({
    mounts: [
      mount("ANY", "/v1/call/{api}/{path=**}", {
        policy,
        handler: async (_request, response, { call, params }) => {
          seen.push({ ...params }, call.principal?.id, call.name);
          endResponse(response, "mounted");
        },
      }),
    ],
  });

  const stranger = await fetch(`${at.url}/v1/call/maps/a/b%20c`);
  const known = await fetch(`${at.url}/v1/call/maps/a/b%20c`, {
    method: "DELETE",
    headers: { authorization: "Bearer user" },
  });

  expect(stranger.status).toBe(401);
  expect(await known.text()).toBe("mounted");
  expect(known.headers.get("x-ratelimit-limit")).toBe("60");
  expect(seen).toEqual([{ api: "maps", path: "a/b c" }, "usr_1", "ANY /v1/call/{api}/{path=**}"]);
});

test("what a mount throws is a Status before its reply begins, and breaks it off later", async () => {
  await using at = await startEdge({
    mounts: [
      mount("GET", "/early", {
        handler: () => {
          throw new Error("secret");
        },
      }),
      mount("GET", "/late", {
        handler: (_request, response) => {
          response.setHeader("content-length", 100);
          void writeChunk(response, "half");
          throw new Error("secret");
        },
      }),
    ],
  });

  const early = await fetch(`${at.url}/early`);
  const late = fetch(`${at.url}/late`).then((reply) => reply.text());

  expect(early.status).toBe(500);
  expect(await early.json()).toMatchObject({ code: 13, message: "internal error" });
  await expect(late).rejects.toThrow();
  expect(at.errors).toHaveLength(2);
});

test("a sane request id is echoed on every reply, another is replaced", async () => {
  await using at = await startEdge();
  const idOf = async (path: string, id: string) => {
    const reply = await fetch(at.url + path, { headers: { "x-request-id": id } });
    return reply.headers.get("x-request-id");
  };

  expect(await idOf("/v1/books/b1", "req-1")).toBe("req-1");
  expect(await idOf("/nothing", "req-2")).toBe("req-2");
  expect(await idOf("/nothing", "a".repeat(129))).toMatch(/^[0-9a-f-]{36}$/);
  expect(await idOf("/nothing", "a b")).toMatch(/^[0-9a-f-]{36}$/);
});

test("every request is reported under its template, never its path", async () => {
  await using at = await startEdge();
  const client = createClient(LibraryService, createGrpcTransport({ baseUrl: at.url }));
  const report = async (call: () => Promise<unknown>) => {
    const finish = at.nextFinish();
    await call();
    await finish;
    return at.finished.at(-1);
  };

  const rest = await report(() => fetch(`${at.url}/v1/books/b2`));
  const grpc = await report(() => client.getBook({ id: "b1" }));
  const miss = await report(() => fetch(`${at.url}/secret/path`));

  expect(rest).toMatchObject({
    method: "GET",
    route: "/v1/books/{id}",
    statusCode: 404,
    protocol: "rest",
    durationMs: expect.any(Number),
  });
  expect(grpc).toMatchObject({
    route: "callora.test.v1.LibraryService/GetBook",
    statusCode: 200,
    protocol: "grpc",
  });
  expect(miss).toMatchObject({ route: "unmatched", statusCode: 404 });
});

function healthSource(status: Record<string, ServingStatus>) {
  const listeners = new Set<() => void>();
  return {
    source: {
      status: (service: string) => status[service],
      onChange: (listener: () => void) => {
        listeners.add(listener);
        return () => void listeners.delete(listener);
      },
    },
    set(service: string, to: ServingStatus) {
      status[service] = to;
      for (const listener of listeners) {
        listener();
      }
    },
    listeners,
  };
}

test("health answers check and list, and watch follows changes until the server stops", async () => {
  const name = CatalogService.typeName;
  const { source, set, listeners } = healthSource({ "": "SERVING", [name]: "SERVING" });
  const at = await startEdge({ health: source });
  const client = createClient(Health, createGrpcTransport({ baseUrl: at.url }));

  expect(await client.check({})).toMatchObject({ status: 1 });
  await expect(client.check({ service: "x" })).rejects.toMatchObject({ code: 5 });
  expect(Object.keys((await client.list({})).statuses)).toEqual(["", name]);
  const known = client.watch({ service: name })[Symbol.asyncIterator]();
  const unknown = client.watch({ service: "x" })[Symbol.asyncIterator]();
  expect((await known.next()).value).toMatchObject({ status: 1 });
  expect((await unknown.next()).value).toMatchObject({ status: 3 });
  set(name, "NOT_SERVING");
  expect((await known.next()).value).toMatchObject({ status: 2 });
  set("x", "SERVING");
  expect((await unknown.next()).value).toMatchObject({ status: 1 });

  const closed = at.edge.close({ graceMs: 10_000 });

  expect(await known.next()).toMatchObject({ done: true });
  expect((await unknown.next()).value).toMatchObject({ status: 2 });
  expect(await unknown.next()).toMatchObject({ done: true });
  await closed;
  expect(listeners.size).toBe(0);
});

test.for([ServerReflection, ServerReflectionAlpha])(
  "$typeName describes every service",
  async (reflection) => {
    await using at = await startEdge();
    const transport = createGrpcTransport({ baseUrl: at.url });
    const client = createClient(reflection as typeof ServerReflection, transport);
    async function* questions() {
      yield { messageRequest: { case: "listServices", value: "" } } as const;
      yield {
        messageRequest: { case: "fileContainingSymbol", value: "callora.test.v1.Book.title" },
      } as const;
      yield {
        messageRequest: {
          case: "fileContainingExtension",
          value: { containingType: "google.protobuf.MethodOptions", extensionNumber: 50901 },
        },
      } as const;
      yield {
        messageRequest: {
          case: "allExtensionNumbersOfType",
          value: "google.protobuf.MethodOptions",
        },
      } as const;
      yield { messageRequest: { case: "fileByFilename", value: "no.proto" } } as const;
    }

    const answers = [];
    for await (const { messageResponse } of client.serverReflectionInfo(questions())) {
      answers.push(messageResponse);
    }

    const [services, file, extension, numbers, missing] = answers;
    expect(services).toMatchObject({
      value: {
        service: [
          { name: "callora.test.v1.LibraryService" },
          { name: "callora.catalog.v1.CatalogService" },
          { name: "grpc.reflection.v1.ServerReflection" },
          { name: "grpc.reflection.v1alpha.ServerReflection" },
        ],
      },
    });
    expect(
      file?.case === "fileDescriptorResponse" && file.value.fileDescriptorProto.length,
    ).toBeGreaterThan(3);
    expect(extension?.case).toBe("fileDescriptorResponse");
    expect(
      numbers?.case === "allExtensionNumbersResponse" &&
        [...numbers.value.extensionNumber].sort((a, b) => a - b),
    ).toEqual([50901, 72295728]);
    expect(missing).toMatchObject({ case: "errorResponse", value: { errorCode: 5 } });
  },
);

test("a preflight is answered for known routes and allowed origins, before authentication", async () => {
  await using at = await startEdge({ corsOrigins: ["https://console.example"] });
  const ask = (path: string, origin: string, method = "POST") =>
    fetch(at.url + path, {
      method: "OPTIONS",
      headers: { origin, "access-control-request-method": method },
    });

  const allowed = await ask("/api/apis", "https://console.example");
  const rpc = await ask("/callora.catalog.v1.CatalogService/GetApi", "https://console.example");
  const foreign = await ask("/api/apis", "https://evil.example");
  const unknown = await ask("/nothing", "https://console.example");
  const actual = await fetch(`${at.url}/v1/books/b1`, {
    headers: { origin: "https://console.example" },
  });

  expect(allowed.status).toBe(204);
  expect(allowed.headers.get("access-control-allow-origin")).toBe("https://console.example");
  expect(allowed.headers.get("access-control-allow-methods")).toBe("POST");
  expect(allowed.headers.get("access-control-allow-headers")).toContain("Authorization");
  expect(rpc.status).toBe(204);
  expect(foreign.headers.get("access-control-allow-origin")).toBeNull();
  expect(foreign.headers.get("access-control-allow-methods")).toBeNull();
  expect(unknown.status).toBe(404);
  expect(actual.headers.get("access-control-expose-headers")).toContain("X-Request-Id");
  expect(actual.headers.get("vary")).toBe("origin");
});

test("an open origin never comes with cookies", async () => {
  await using at = await startEdge({ corsOrigins: ["*"] });

  const reply = await fetch(`${at.url}/v1/books/b1`, { headers: { origin: "https://a.example" } });

  expect(reply.headers.get("access-control-allow-origin")).toBe("*");
  expect(reply.headers.get("access-control-allow-credentials")).toBeNull();
});

test("a request whose host is malformed is the client's mistake", async () => {
  await using at = await startEdge();
  const socket = connectTcp(at.port, "127.0.0.1");
  socket.write(
    "POST /callora.test.v1.LibraryService/GetBook HTTP/1.1\r\nhost: [\r\n" +
      "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
  );

  const [reply] = await once(socket, "data");

  expect(String(reply)).toMatch(/^HTTP\/1\.1 400/);
  expect(at.errors).toEqual([]);
  socket.destroy();
});

test.for([
  { protocol: "REST", path: "/api/apis" },
  { protocol: "Connect", path: "/callora.catalog.v1.CatalogService/CreateApi" },
])("a stranger over $protocol is turned away before the body is read", async ({ path }) => {
  await using at = await startEdge();

  const response = await fetch(`${at.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: "{ this is not JSON",
  });

  expect(response.status).toBe(401);
});
