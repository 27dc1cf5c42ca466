import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { Client, credentials, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CatalogService } from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import {
  GetBookRequestSchema,
  GetBookResponseSchema,
  LibraryService,
} from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { startEdge } from "../../test/support/edge.ts";

let at: Awaited<ReturnType<typeof startEdge>>;
beforeAll(async () => {
  at = await startEdge();
});
afterAll(async () => {
  await at.edge.close({ graceMs: 0 });
});

const transports = {
  "connect over h1": (url) => createConnectTransport({ baseUrl: url, httpVersion: "1.1" }),
  "connect over h2": (url) => createConnectTransport({ baseUrl: url, httpVersion: "2" }),
  "connect with binary": (url) =>
    createConnectTransport({ baseUrl: url, httpVersion: "2", useBinaryFormat: true }),
  "connect with get": (url) =>
    createConnectTransport({ baseUrl: url, httpVersion: "1.1", useHttpGet: true }),
  "grpc-web over h1": (url) => createGrpcWebTransport({ baseUrl: url, httpVersion: "1.1" }),
  "grpc-web over h2": (url) => createGrpcWebTransport({ baseUrl: url, httpVersion: "2" }),
  "grpc over h2": (url) => createGrpcTransport({ baseUrl: url }),
} satisfies Record<string, (url: string) => Transport>;

describe.for(Object.entries(transports))("%s", ([name, open]) => {
  const protocol = name.split(" ")[0];
  const library = () => createClient(LibraryService, open(at.url));

  test("a unary call reaches the handler and brings its headers and trailers back", async () => {
    const headers: Headers[] = [];
    const trailers: Headers[] = [];

    const { book } = await library().getBook(
      { id: "b1" },
      {
        onHeader: (header) => void headers.push(header),
        onTrailer: (trailer) => void trailers.push(trailer),
      },
    );

    expect(book?.title).toBe("Momo");
    expect(headers[0]?.get("x-protocol")).toBe(protocol);
    expect(headers[0]?.get("x-shelf")).toBe("7");
    expect(headers[0]?.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect(trailers[0]?.get("x-mood")).toBe("calm");
  });

  test("a stream of responses arrives whole", async () => {
    const ids: string[] = [];

    for await (const { book } of library().watchBooks({ count: 3 })) {
      ids.push(book?.id ?? "");
    }

    expect(ids).toEqual(["b0", "b1", "b2"]);
  });

  test("a stream of requests arrives whole", async () => {
    async function* books() {
      yield {};
      yield {};
    }

    expect((await library().importBooks(books())).count).toBe(2);
  });

  test("an error keeps its code, message and reason", async () => {
    const error = await library()
      .getBook({ id: "b2" })
      .catch((thrown) => thrown);

    expect(error).toMatchObject({ code: 5, rawMessage: 'Cannot find book "b2"' });
    expect(error.findDetails(ErrorInfoSchema)[0]?.reason).toBe("NOT_FOUND");
  });

  test("an unforeseen error of a stream is hidden, but reported", async () => {
    const before = at.errors.length;
    const read = async () => {
      for await (const _ of library().watchBooks({ count: -1 })) {
        // The error comes after the first message.
      }
    };

    await expect(read()).rejects.toMatchObject({ code: 13, rawMessage: "internal error" });

    expect(at.errors).toHaveLength(before + 1);
  });

  test("a stranger is turned away, and a limited reply says its limits", async () => {
    const client = createClient(CatalogService, open(at.url));
    const headers: Headers[] = [];

    await expect(client.getApi({ apiId: "x" })).rejects.toMatchObject({ code: 16 });
    await client.listApis({}, { onHeader: (header) => void headers.push(header) });

    expect(Number(headers[0]?.get("x-ratelimit-remaining"))).toBeGreaterThan(0);
    expect(headers[0]?.get("x-ratelimit-limit")).toBe("60");
    expect(headers[0]?.get("x-ratelimit-reset")).not.toBeNull();
  });

  test("the deadline of the client ends the handler", async () => {
    const call = library().lendBook({ id: "b1" }, { timeoutMs: 50 });

    await expect(call).rejects.toMatchObject({ code: 4 });
  });
});

test("grpc-js reaches the same handler, and learns by status of a method that is not there", async () => {
  const client = new Client(`127.0.0.1:${at.port}`, credentials.createInsecure());
  const call = (path: string) =>
    new Promise<{ title: string }>((resolve, reject) => {
      client.makeUnaryRequest(
        path,
        (id: string) => Buffer.from(toBinary(GetBookRequestSchema, message(id))),
        (bytes) => fromBinary(GetBookResponseSchema, bytes),
        "b1",
        (error, reply) => (error ? reject(error) : resolve({ title: reply?.book?.title ?? "" })),
      );
    });

  const found = await call("/callora.test.v1.LibraryService/GetBook");
  const missing = await call("/callora.test.v1.LibraryService/Nothing").catch((error) => error);

  client.close();
  expect(found.title).toBe("Momo");
  expect(missing.code).toBe(status.UNIMPLEMENTED);
  expect(missing.details).toBe("Cannot find the method");
});

test("connect refuses a JSON field that the message lacks, and names it", async () => {
  const reply = await fetch(`${at.url}/callora.test.v1.LibraryService/GetBook`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: '{"id":"b1","colour":"red"}',
  });

  expect(reply.status).toBe(400);
  expect(await reply.json()).toMatchObject({
    code: "invalid_argument",
    message: expect.stringContaining('"colour"'),
  });
});

test("an rpc path refuses other methods and media types", async () => {
  const path = `${at.url}/callora.test.v1.LibraryService/GetBook`;

  const put = await fetch(path, { method: "PUT", body: "{}" });
  const xml = await fetch(path, {
    method: "POST",
    headers: { "content-type": "text/xml" },
    body: "<id>b1</id>",
  });

  expect([put.status, put.headers.get("allow")]).toEqual([405, "OPTIONS, POST"]);
  expect(xml.status).toBe(415);
});

function message(id: string) {
  return { $typeName: "callora.test.v1.GetBookRequest", id, name: "" } as const;
}
