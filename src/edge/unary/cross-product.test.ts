import { request as requestHttp1 } from "node:http";
import { type ClientHttp2Session, connect } from "node:http2";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { create, type DescMessage, fromBinary, toBinary, toJsonString } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "../../../gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../../gen/google/rpc/status_pb.ts";
import {
  GetBookRequestSchema,
  LibraryService,
} from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { libraryService, startEdge } from "../../../test/support/edge.ts";
import { openPolicy } from "../../rpc/policy.ts";
import { bodyBytesMax } from "../read-body.ts";
import { entry } from "../service-entry.ts";

const path = "/callora.test.v1.LibraryService/GetBook";

/** What a handler does for each id. */
async function getBook({ id, name }: { id: string; name: string }, context: HandlerContext) {
  context.responseHeader.set("x-shelf", "7");
  context.responseHeader.append("x-many", "1");
  context.responseHeader.append("x-many", "2");
  context.responseHeader.set("x-sent", context.requestHeader.get("x-sent") ?? "none");
  context.responseHeader.set("x-key-bin", context.requestHeader.get("x-key-bin") ?? "AAEC");
  context.responseTrailer.set("x-mood", "calm");
  context.responseTrailer.set("x-mood-bin", "/wAB");
  const [kind, code] = id.split(":");
  switch (kind) {
    case "error":
      throw failure(Number(code), name);
    case "crash":
      throw new Error("secret of the database");
    case "wait":
      if (!context.signal.aborted) {
        await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
      }
      throw context.signal.reason;
    case "seen":
      return { book: { title: seenBy(context) } };
    case "plain":
      return {};
    default:
      return { book: { id, title: name, tags: ["time"], pages: 304n } };
  }
}

function failure(code: Code, message: string): ConnectError {
  const metadata = { "x-reason": "worn", "grpc-status": "0", "content-type": "text/html" };
  return new ConnectError(message, code, metadata, [
    { desc: ErrorInfoSchema, value: { reason: "WORN", domain: "library" } },
    { desc: RetryInfoSchema, value: { retryDelay: { seconds: 2n } } },
  ]);
}

function seenBy(context: HandlerContext): string {
  const { protocolName, requestMethod, method, service, timeoutMs } = context;
  const url = new URL(context.url).pathname;
  const hasTime = (timeoutMs() ?? 0) > 1_000;
  return JSON.stringify([protocolName, requestMethod, method.name, service.typeName, url, hasTime]);
}

const services = [entry(LibraryService, { ...libraryService(), getBook }, openPolicy)];
let fast: Awaited<ReturnType<typeof openSide>>;
let slow: Awaited<ReturnType<typeof openSide>>;
beforeAll(async () => {
  fast = await openSide(false);
  slow = await openSide(true);
});
afterAll(async () => {
  await Promise.all([fast.close(), slow.close()]);
});

async function openSide(slowUnary: boolean) {
  const at = await startEdge({ services, slowUnary });
  const session = connect(at.url);
  return {
    at,
    session,
    async close() {
      session.close();
      await at.edge.close({ graceMs: 0 });
    },
  };
}

type Encoding = "identity" | "gzip" | "br";
const encodings = ["identity", "gzip", "br"] as const satisfies Encoding[];

interface Wire {
  readonly protocol: "grpc" | "connect";
  readonly http: 1 | 2;
  readonly codec: "proto" | "json";
}

const wires = [
  { protocol: "grpc", http: 2, codec: "proto" },
  { protocol: "grpc", http: 2, codec: "json" },
  { protocol: "connect", http: 2, codec: "proto" },
  { protocol: "connect", http: 2, codec: "json" },
  { protocol: "connect", http: 1, codec: "proto" },
  { protocol: "connect", http: 1, codec: "json" },
] as const satisfies Wire[];

interface Sent {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

interface Received {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: string;
  readonly trailers: Readonly<Record<string, unknown>>;
}

/** A request as a client of the protocol would send it. */
function requestOf(
  { protocol, codec }: Wire,
  message: { id: string; name?: string },
  { encoding = "identity", accept }: { encoding?: Encoding; accept?: string | undefined } = {},
): Sent {
  const full = create(GetBookRequestSchema, message);
  const bytes =
    codec === "proto"
      ? toBinary(GetBookRequestSchema, full)
      : Buffer.from(toJsonString(GetBookRequestSchema, full));
  const packed = pack(bytes, encoding);
  const isGrpc = protocol === "grpc";
  const prefix = isGrpc ? "grpc-" : "";
  return {
    headers: {
      // Errors tell it.
      "x-request-id": "req-1",
      "content-type": isGrpc ? `application/grpc+${codec}` : `application/${codec}`,
      ...(isGrpc ? { te: "trailers" } : { "connect-protocol-version": "1" }),
      ...(encoding === "identity"
        ? {}
        : { [isGrpc ? "grpc-encoding" : "content-encoding"]: encoding }),
      ...(accept === undefined ? {} : { [`${prefix}accept-encoding`]: accept }),
    },
    body: isGrpc ? envelope(packed, encoding === "identity" ? 0 : 1) : packed,
  };
}

function pack(bytes: Uint8Array, encoding: Encoding): Uint8Array {
  return { identity: (b: Uint8Array) => b, gzip: gzipSync, br: brotliCompressSync }[encoding](
    bytes,
  );
}

function envelope(bytes: Uint8Array, flags = 0): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

function send(side: typeof fast, wire: Wire, sent: Sent): Promise<Received> {
  return wire.http === 1 ? sendHttp1(side.at.port, sent) : sendHttp2(side.session, sent);
}

function sendHttp1(port: number, { headers, body }: Sent): Promise<Received> {
  return new Promise((resolve, reject) => {
    const request = requestHttp1({ port, path, method: "POST", headers, agent: false });
    request.on("error", reject);
    request.on("response", async (response) => {
      const parts = await response.toArray();
      resolve({
        status: response.statusCode ?? 0,
        headers: comparable(response.headers),
        body: Buffer.concat(parts).toString("latin1"),
        trailers: response.trailers,
      });
    });
    request.end(body);
  });
}

function sendHttp2(session: ClientHttp2Session, { headers, body }: Sent): Promise<Received> {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":method": "POST", ":path": path, ...headers });
    const parts: Buffer[] = [];
    let head: Record<string, unknown> = {};
    let trailers: Record<string, unknown> = {};
    stream.on("response", (got) => {
      head = { ...got };
    });
    stream.on("trailers", (got) => {
      trailers = { ...got };
    });
    stream.on("data", (part) => parts.push(part));
    stream.on("error", reject);
    stream.on("close", () => {
      const { ":status": status, ...rest } = head;
      const text = Buffer.concat(parts).toString("latin1");
      resolve({ status: Number(status), headers: comparable(rest), body: text, trailers });
    });
    stream.end(body);
  });
}

/** Left out: what differs from call to call, and how long the connection may last. */
function comparable(headers: object): Record<string, unknown> {
  const { date, connection, ...rest } = { ...headers } as Record<string, unknown>;
  delete rest["x-request-id"];
  delete rest["keep-alive"];
  return rest;
}

async function expectSame(wire: Wire, sent: Sent): Promise<Received> {
  const [left, right] = await Promise.all([send(fast, wire, sent), send(slow, wire, sent)]);
  expect(left).toEqual(right);
  return left;
}

/** The reason that an error names. It names the request too, by the id that requestOf() sends. */
function reasonOf({ body, trailers }: Received): string {
  const status = trailers["grpc-status-details-bin"];
  const details =
    status === undefined
      ? (JSON.parse(body).details as { type: string; value: string }[])
      : fromBinary(StatusSchema, Buffer.from(String(status), "base64")).details.map((one) => ({
          type: one.typeUrl.replace("type.googleapis.com/", ""),
          value: one.value,
        }));
  const found = <T extends DescMessage>(desc: T) =>
    details
      .filter(({ type }) => type === desc.typeName)
      .map(({ value }) =>
        fromBinary(desc, typeof value === "string" ? Buffer.from(value, "base64") : value),
      );
  expect(found(RequestInfoSchema)).toMatchObject([{ requestId: "req-1" }]);
  const [info, ...others] = found(ErrorInfoSchema);
  expect(others).toEqual([]);
  return info?.reason ?? "";
}

const long = "The Grey Gentlemen \u{1F552} ".repeat(100);

describe.for(wires)("$protocol+$codec over HTTP/$http", (wire) => {
  const isGrpc = wire.protocol === "grpc";
  const statusOf = ({ status, trailers }: Received) =>
    isGrpc ? Number(trailers["grpc-status"]) : status;
  const ok = isGrpc ? 0 : 200;

  const accepts = [undefined, "", "identity", "gzip", "br", "identity,deflate,gzip", "zstd"];
  const compressions = encodings.flatMap((encoding) =>
    accepts.map((accept) => ({ encoding, accept })),
  );
  test.for(compressions)("compression $encoding, accepting $accept", async (compression) => {
    for (const message of [
      { id: "b1", name: "Momo" },
      { id: "b1", name: long },
      { id: "error:5", name: long },
      { id: "plain" },
    ]) {
      const got = await expectSame(wire, requestOf(wire, message, compression));
      const code = isGrpc ? Code.NotFound : 404;
      expect(statusOf(got)).toBe(message.id.startsWith("error") ? code : ok);
    }
  });

  test("metadata goes both ways, also binary", async () => {
    const sent = requestOf(wire, { id: "b1" });
    const headers = { ...sent.headers, "x-sent": "a, b", "x-key-bin": "3q2+7w" };

    const got = await expectSame(wire, { ...sent, headers });

    expect(got.headers).toMatchObject({
      "x-sent": "a, b",
      "x-key-bin": "3q2+7w",
      "x-many": "1, 2",
    });
    expect(isGrpc ? got.trailers["x-mood-bin"] : got.headers["trailer-x-mood-bin"]).toBe("/wAB");
  });

  const codes = Array.from({ length: 16 }, (_, index) => index + 1);
  test.for(codes)("error %i with details, metadata and a message", async (code) => {
    for (const name of ["Cannot find it", "", "straße 100% \u{1F4A5} a+b\tc\r\nd", long]) {
      const got = await expectSame(wire, requestOf(wire, { id: `error:${code}`, name }));
      expect(statusOf(got)).not.toBe(ok);
      expect(isGrpc ? got.trailers["x-reason"] : got.headers["x-reason"]).toBe("worn");
    }
  });

  test("what is thrown unforeseen is hidden", async () => {
    const got = await expectSame(wire, requestOf(wire, { id: "crash" }));

    expect(statusOf(got)).toBe(isGrpc ? Code.Internal : 500);
    expect(JSON.stringify(got)).not.toContain("secret");
  });

  test("the context tells the same", async () => {
    const sent = requestOf(wire, { id: "seen" });
    const timeout = isGrpc ? { "grpc-timeout": "9S" } : { "connect-timeout-ms": "9000" };

    const got = await expectSame(wire, { ...sent, headers: { ...sent.headers, ...timeout } });

    expect(got.body).toContain("true");
    expect(got.body).toContain("LibraryService/GetBook");
  });

  const timeouts = isGrpc
    ? ["20m", "0m", "99999999n", "1", "S", "123456789S", "1x", "-1S", ""]
    : ["20", "0", "abc", "-1", "1.5", "99999999999", "3600001", ""];
  test.for(timeouts)("a deadline of %j", async (timeout) => {
    const name = isGrpc ? "grpc-timeout" : "connect-timeout-ms";
    const sent = requestOf(wire, { id: "wait" });

    const got = await expectSame(wire, { ...sent, headers: { ...sent.headers, [name]: timeout } });

    const [expired, refused] = isGrpc ? [Code.DeadlineExceeded, Code.InvalidArgument] : [504, 400];
    expect([expired, refused]).toContain(statusOf(got));
    expect(reasonOf(got)).toBe(statusOf(got) === expired ? "DEADLINE_EXCEEDED" : "REQUEST_INVALID");
  });

  test("more time than there is: clamped for gRPC, refused for Connect", async () => {
    const sent = requestOf(wire, { id: "b1" });
    const timeout = isGrpc
      ? { "grpc-timeout": "99999999H" }
      : { "connect-timeout-ms": "9999999999" };

    const got = await expectSame(wire, { ...sent, headers: { ...sent.headers, ...timeout } });

    expect(statusOf(got)).toBe(isGrpc ? 0 : 400);
  });

  test.for([
    { what: "nothing", text: "" },
    { what: "no message", text: "{" },
    { what: "bytes that are no text", text: "\xff\xfe\x01" },
    { what: "another type", text: '{"id":1}' },
    { what: "an unknown field", text: '{"id":"b1","colour":"red"}' },
    { what: "a byte order mark", text: '\xef\xbb\xbf{"id":"b1"}' },
    { what: "a list", text: "[]" },
    { what: "null", text: "null" },
  ])("a body of $what", async ({ text }) => {
    const bytes = Buffer.from(text, "latin1");
    const sent = requestOf(wire, { id: "b1" });

    for (const body of [isGrpc ? envelope(bytes) : bytes, bytes]) {
      const got = await expectSame(wire, { ...sent, body });
      if (statusOf(got) !== ok) {
        // Of a body that is not framed, letters are taken for a length.
        const isCutShort = isGrpc && body === bytes && bytes.length > 4;
        expect(reasonOf(got)).toBe(isCutShort ? "BODY_TOO_LARGE" : "REQUEST_INVALID");
      }
    }
  });

  test.for(encodings.slice(1))(
    "a body that is not %s, and one that grows too large",
    async (encoding) => {
      const { headers } = requestOf(wire, { id: "b1" }, { encoding });
      const broken = Buffer.from("this is not compressed");
      const bomb = pack(Buffer.alloc(bodyBytesMax + 1), encoding);

      for (const bytes of [broken, bomb, pack(Buffer.alloc(0), encoding), Buffer.alloc(0)]) {
        const got = await expectSame(wire, { headers, body: isGrpc ? envelope(bytes, 1) : bytes });
        if (statusOf(got) !== ok) {
          expect(reasonOf(got)).toBe(bytes === bomb ? "BODY_TOO_LARGE" : "REQUEST_INVALID");
        }
      }
    },
  );

  test("a compression nobody knows is named with those that are known", async () => {
    const sent = requestOf(wire, { id: "b1" });
    const name = isGrpc ? "grpc-encoding" : "content-encoding";

    const got = await expectSame(wire, { ...sent, headers: { ...sent.headers, [name]: "lzw" } });

    expect(statusOf(got)).toBe(isGrpc ? Code.Unimplemented : 501);
    expect(reasonOf(got)).toBe("COMPRESSION_UNSUPPORTED");
    const told = isGrpc ? decodeURIComponent(String(got.trailers["grpc-message"])) : got.body;
    expect(told).toContain("supported encodings are gzip,br");
  });

  test("other spellings of the content type", async () => {
    const types = isGrpc
      ? ["application/grpc", "APPLICATION/GRPC+PROTO", "application/grpc+json; charset=utf-8"]
      : ["Application/JSON", "application/json;charset=utf8", "application/json; charset=UTF-8"];
    for (const type of types) {
      const codec = /json/i.test(type) ? "json" : "proto";
      const sent = requestOf({ ...wire, codec }, { id: "b1" });
      const got = await expectSame(wire, {
        ...sent,
        headers: { ...sent.headers, "content-type": type },
      });
      expect(statusOf(got)).toBe(ok);
    }
  });

  test.for([
    "text/plain",
    "application/xml",
    "application/json; charset=latin1",
    "application/grpc+xml",
  ])("the wrong content type %s", async (type) => {
    const sent = requestOf(wire, { id: "b1" });

    const got = await expectSame(wire, {
      ...sent,
      headers: { ...sent.headers, "content-type": type },
    });

    expect(got.status).toBe(415);
  });
});

describe.for(wires.filter(({ protocol }) => protocol === "grpc"))("frames of $codec", (wire) => {
  const one = requestOf(wire, { id: "b1" });
  const bad = envelope(Buffer.from("\xff\xff\xff", "latin1"));
  const tooLong = Buffer.from([0, 0, 64, 0, 1]);
  test.for([
    { what: "none", body: Buffer.alloc(0) },
    { what: "two", body: Buffer.concat([one.body, one.body]) },
    { what: "a whole one and a bad one", body: Buffer.concat([one.body, bad]) },
    {
      what: "a whole one and a part of one",
      body: Buffer.concat([one.body, one.body.subarray(0, 3)]),
    },
    { what: "a part of one", body: one.body.subarray(0, one.body.length - 1) },
    { what: "a head cut short", body: one.body.subarray(0, 3) },
    { what: "one too large", body: tooLong },
    { what: "an empty one", body: Buffer.alloc(5) },
    { what: "one with a compression that is not named", body: envelope(one.body.subarray(5), 1) },
    { what: "one with unknown flags", body: envelope(one.body.subarray(5), 0x40) },
  ])("$what", async ({ body }) => {
    const got = await expectSame(wire, { ...one, body });
    if (got.trailers["grpc-status"] !== "0") {
      expect(reasonOf(got)).toBe(body === tooLong ? "BODY_TOO_LARGE" : "REQUEST_INVALID");
    }
  });
});

// Over HTTP/1.1 connect-node closes the connection before the client has sent all, so that most
// clients never read why. Over HTTP/2 it resets the stream after the reply. Only the reply is the same.
test.for(wires.filter(({ protocol }) => protocol === "connect"))(
  "a body that is too large: $codec over HTTP/$http",
  async (wire) => {
    const { headers } = requestOf(wire, { id: "b1" });
    const body = Buffer.alloc(bodyBytesMax + 1, 0x20);

    const announced = { ...headers, "content-length": String(body.length) };
    const got = await send(fast, wire, { headers: announced, body });

    expect(got.status).toBe(429);
    expect(reasonOf(got)).toBe("BODY_TOO_LARGE");
    expect(got.body).toContain(`size ${body.length} is larger than`);
  },
);

test.for(wires.filter(({ http }) => http === 2))(
  "a client that leaves cancels the handler: $protocol+$codec",
  async (wire) => {
    for (const side of [fast, slow]) {
      const finished = side.at.nextFinish();
      const { headers, body } = requestOf(wire, { id: "wait" });
      const stream = side.session.request({ ":method": "POST", ":path": path, ...headers });
      stream.on("error", () => {});
      stream.end(body, () => setImmediate(() => stream.close(8)));
      await finished;
      expect(side.at.finished.at(-1)?.statusCode).toBe(499);
    }
  },
);
