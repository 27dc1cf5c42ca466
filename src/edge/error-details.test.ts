import { Code, type ConnectError, createClient, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CatalogService } from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import { LibraryService } from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { mount, startEdge } from "../../test/support/edge.ts";

let at: Awaited<ReturnType<typeof startEdge>>;
beforeAll(async () => {
  at = await startEdge({
    health: { status: () => undefined, onChange: () => () => {} },
    mounts: [
      mount("GET", "/crash", {
        handler: () => {
          throw new Error("secret");
        },
      }),
    ],
  });
});
afterAll(async () => {
  await at.edge.close({ graceMs: 0 });
});

const transports = {
  connect: () => createConnectTransport({ baseUrl: at.url, httpVersion: "1.1" }),
  grpc: () => createGrpcTransport({ baseUrl: at.url }),
  "grpc-web": () => createGrpcWebTransport({ baseUrl: at.url, httpVersion: "1.1" }),
} satisfies Record<string, () => Transport>;

const headers = { "x-request-id": "req-7" };
const asAdmin = { headers: { ...headers, authorization: "Bearer admin" } };

function failureOf(call: Promise<unknown>): Promise<ConnectError> {
  return call.then(
    () => expect.fail("the call succeeded"),
    (error) => error,
  );
}

function detailsOf(error: ConnectError) {
  return {
    code: error.code,
    reasons: error.findDetails(ErrorInfoSchema).map(({ reason }) => reason),
    requests: error.findDetails(RequestInfoSchema).map(({ requestId }) => requestId),
    retries: error.findDetails(RetryInfoSchema).length,
  };
}

describe.for(Object.entries(transports))("over %s", ([, open]) => {
  const library = () => createClient(LibraryService, open());
  const catalog = () => createClient(CatalogService, open());

  test.for<[string, () => Promise<unknown>, object]>([
    [
      "of the handler",
      () => library().getBook({ id: "b2" }, { headers }),
      { code: Code.NotFound, reasons: ["NOT_FOUND"], retries: 0 },
    ],
    [
      "nobody foresaw",
      () => library().getBook({ id: "crash" }, { headers }),
      { code: Code.Internal, reasons: ["INTERNAL"], retries: 0 },
    ],
    [
      "of a busy server",
      () => library().getBook({ id: "busy" }, { headers }),
      { code: Code.Unavailable, reasons: ["BUSY"], retries: 1 },
    ],
    [
      "of a stream",
      () => drain(library().watchBooks({ count: -1 }, { headers })),
      { code: Code.Internal, reasons: ["INTERNAL"], retries: 0 },
    ],
    [
      "of a stranger",
      () => catalog().getApi({ apiId: "x" }, { headers }),
      { code: Code.Unauthenticated, reasons: ["CREDENTIALS_REQUIRED"], retries: 0 },
    ],
    [
      "of the health service",
      () => createClient(Health, open()).check({ service: "x" }, { headers }),
      { code: Code.NotFound, reasons: ["NOT_FOUND"], retries: 0 },
    ],
  ])("an error %s names its reason and its request", async ([, call, wanted]) => {
    const details = detailsOf(await failureOf(call()));

    expect(details).toEqual({ ...wanted, requests: ["req-7"] });
  });

  test("a request that breaks the contract learns of its fields", async () => {
    const error = await failureOf(catalog().createApi({ name: "", slug: "-" }, asAdmin));

    const [bad] = error.findDetails(BadRequestSchema);
    expect(detailsOf(error)).toMatchObject({ code: 3, reasons: ["REQUEST_INVALID"] });
    expect(bad?.fieldViolations.map(({ field }) => field)).toEqual(
      expect.arrayContaining(["name", "slug"]),
    );
    expect(detailsOf(error).requests).toEqual(["req-7"]);
  });
});

async function drain(messages: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of messages) {
    // The error comes at the end.
  }
}

const web = "application/grpc-web+json";
const connectStream = "application/connect+json";
const badFrame = Buffer.from([0, 0, 0, 0, 2, 0x7b, 0x7b]);
test.for<[string, string, Buffer, object, string]>([
  ["GetBook", web, badFrame, {}, "REQUEST_INVALID"],
  ["GetBook", web, Buffer.alloc(0), {}, "REQUEST_INVALID"],
  ["GetBook", web, Buffer.from([0, 1, 0, 0, 0]), {}, "BODY_TOO_LARGE"],
  ["GetBook", web, badFrame, { "grpc-encoding": "lzw" }, "COMPRESSION_UNSUPPORTED"],
  ["WatchBooks", web, badFrame, {}, "REQUEST_INVALID"],
  ["Unknown", web, badFrame, {}, "PATH_NOT_FOUND"],
  ["Unknown", "application/grpc", badFrame, {}, "PATH_NOT_FOUND"],
  ["WatchBooks", connectStream, badFrame, {}, "REQUEST_INVALID"],
  ["ImportBooks", connectStream, badFrame, {}, "REQUEST_INVALID"],
  ["ImportBooks", connectStream, Buffer.from([0, 1, 0, 0, 0]), {}, "BODY_TOO_LARGE"],
  [
    "WatchBooks",
    connectStream,
    badFrame,
    { "connect-content-encoding": "lzw" },
    "COMPRESSION_UNSUPPORTED",
  ],
])("%s as %s refuses %j with %j for a reason", async ([name, type, body, more, reason]) => {
  const reply = await fetch(`${at.url}/callora.test.v1.LibraryService/${name}`, {
    method: "POST",
    headers: { ...headers, ...more, "content-type": type },
    body: new Uint8Array(body),
  });

  const text = await reply.text();
  const [, status] = /grpc-status-details-bin: ([\w+/]+)/.exec(text) ?? [];
  const inHeader = reply.headers.get("grpc-status-details-bin");
  // What protobuf holds of texts is legible.
  const told = Buffer.from(status ?? inHeader ?? "", "base64").toString("latin1");
  const inEnd = [...text.matchAll(/"value":"([\w+/]+)"/g)]
    .map(([, value = ""]) => Buffer.from(value, "base64").toString("latin1"))
    .join();
  expect(told + inEnd).toContain(reason);
  expect(told + inEnd).toContain("req-7");
});

test.for([
  ["/v1/books/b2", 404, "NOT_FOUND"],
  ["/v1/books/crash", 500, "INTERNAL"],
  ["/v1/books?colour=1", 400, "REQUEST_INVALID"],
  ["/v1/books/%zz", 400, "REQUEST_INVALID"],
  ["/nothing", 404, "PATH_NOT_FOUND"],
  ["/crash", 500, "INTERNAL"],
] as const)(
  "GET %s answers %i with a reason and the request's id",
  async ([path, status, reason]) => {
    for (const accept of ["application/json", "application/problem+json"]) {
      const reply = await fetch(at.url + path, { headers: { ...headers, accept } });

      const { details } = (await reply.json()) as { details: Record<string, unknown>[] };
      const of = (type: string) => details.filter((one) => String(one["@type"]).endsWith(type));
      expect(reply.status).toBe(status);
      expect(of(".ErrorInfo")).toMatchObject([{ reason, domain: "callora" }]);
      expect(of(".RequestInfo")).toMatchObject([{ requestId: "req-7" }]);
    }
  },
);

test.for(["application/grpc-web-text", "application/grpc-web-text+proto", "text/plain"])(
  "a stream as %s is refused with a reason",
  async (type) => {
    const reply = await fetch(`${at.url}/callora.test.v1.LibraryService/WatchBooks`, {
      method: "POST",
      headers: { ...headers, "content-type": type },
      body: "",
    });

    expect(reply.status).toBe(415);
    expect(await reply.json()).toMatchObject({
      details: [{ reason: "MEDIA_TYPE_UNSUPPORTED" }, {}],
    });
  },
);
