import { once } from "node:events";
import { existsSync } from "node:fs";
import {
  Code,
  type ConnectError,
  createClient,
  encodeBinaryHeader,
  type Transport,
} from "@connectrpc/connect";
import { compressionGzip, createGrpcTransport } from "@connectrpc/connect-node";
import { Client, credentials } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type StreamingOutputCallResponse,
  TestService,
  UnimplementedService,
} from "./gen/grpc/testing/test_pb.ts";
import { runCommand } from "./support/command.ts";
import { startEdge } from "./support/edge.ts";
import { grpcJsTransport } from "./support/grpc-js-transport.ts";
import { interopService } from "./support/interop-service.ts";

const { entry, events } = interopService();
const clients: Client[] = [];
let at: Awaited<ReturnType<typeof startEdge>>;
beforeAll(async () => {
  at = await startEdge({ services: [entry] });
});
afterAll(async () => {
  for (const client of clients) {
    client.close();
  }
  await at.edge.close({ graceMs: 0 });
});

const unicode = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";

function openGrpcJs(options: Record<string, unknown> = {}): Transport {
  const client = new Client(`127.0.0.1:${at.port}`, credentials.createInsecure(), options);
  clients.push(client);
  return grpcJsTransport(client);
}

const peers: Record<string, (compressed: boolean) => Transport> = {
  "@connectrpc/connect-node": (compressed) =>
    createGrpcTransport({
      baseUrl: at.url,
      ...(compressed && { sendCompression: compressionGzip }),
    }),
  "@grpc/grpc-js": (compressed) =>
    openGrpcJs(compressed ? { "grpc.default_compression_algorithm": 2 } : {}),
};

const sizes = [
  [31415, 27182],
  [9, 8],
  [2653, 1828],
  [58979, 45904],
] as const;
const askedSizes = sizes.map(([asked]) => asked);

function failureOf(call: Promise<unknown>): Promise<ConnectError> {
  return call.then(
    () => expect.fail("the call succeeded"),
    (error) => error,
  );
}

describe.for(Object.entries(peers))("%s", ([, open]) => {
  const connect = () => createClient(TestService, open(false));

  test("empty_unary", async () => {
    expect(await connect().emptyCall({})).toEqual({ $typeName: "grpc.testing.Empty" });
  });

  test("large_unary", async () => {
    const payload = { body: new Uint8Array(271_828) };

    const reply = await connect().unaryCall({ responseSize: 314_159, payload });

    expect(reply.payload?.body).toHaveLength(314_159);
  });

  test("client_compressed_unary", async () => {
    const request = {
      expectCompressed: { value: true },
      responseSize: 314_159,
      payload: { body: new Uint8Array(271_828) },
    };

    const reply = await createClient(TestService, open(true)).unaryCall(request);
    const plain = await failureOf(connect().unaryCall(request));

    expect(reply.payload?.body).toHaveLength(314_159);
    expect(plain.code).toBe(Code.InvalidArgument);
  });

  test("client_streaming", async () => {
    async function* requests() {
      for (const [, size] of sizes) {
        yield { payload: { body: new Uint8Array(size) } };
      }
    }

    expect((await connect().streamingInputCall(requests())).aggregatedPayloadSize).toBe(74_922);
  });

  test("server_streaming", async () => {
    const replies = connect().streamingOutputCall({
      responseParameters: askedSizes.map((size) => ({ size })),
    });

    expect(await sizesOf(replies)).toEqual(askedSizes);
  });

  test("ping_pong", async () => {
    const answered: (() => void)[] = [];
    const turns = sizes.map(() => new Promise<void>((resolve) => void answered.push(resolve)));
    async function* requests() {
      for (const [turn, [asked, sent]] of sizes.entries()) {
        yield { responseParameters: [{ size: asked }], payload: { body: new Uint8Array(sent) } };
        await turns[turn];
      }
    }

    const received: (number | undefined)[] = [];
    for await (const { payload } of connect().fullDuplexCall(requests())) {
      answered[received.length]?.();
      received.push(payload?.body.length);
    }

    expect(received).toEqual(askedSizes);
  });

  test("empty_stream", async () => {
    async function* requests() {}

    expect(await sizesOf(connect().fullDuplexCall(requests()))).toEqual([]);
  });

  test("cancel_after_begin", async () => {
    const abort = new AbortController();
    const over = once(events, "over StreamingInputCall");
    const begun = once(events, "begun StreamingInputCall");
    const failure = failureOf(connect().streamingInputCall(never(), { signal: abort.signal }));

    // Only what has reached the server can be cancelled there.
    await begun;
    abort.abort();

    expect((await failure).code).toBe(Code.Canceled);
    await over;
  });

  test("cancel_after_first_response", async () => {
    const abort = new AbortController();
    const over = once(events, "over FullDuplexCall");
    async function* requests() {
      yield { responseParameters: [{ size: 31_415 }] };
      yield* never();
    }
    const replies = connect().fullDuplexCall(requests(), { signal: abort.signal });
    const iterator = replies[Symbol.asyncIterator]();

    const first = await iterator.next();
    abort.abort();

    expect(first.value?.payload?.body).toHaveLength(31_415);
    expect((await failureOf(iterator.next())).code).toBe(Code.Canceled);
    await over;
  });

  test("timeout_on_sleeping_server", async () => {
    async function* requests() {
      yield { responseParameters: [{ size: 1, intervalUs: 30_000_000 }] };
    }

    const error = await failureOf(sizesOf(connect().fullDuplexCall(requests(), { timeoutMs: 50 })));

    expect(error.code).toBe(Code.DeadlineExceeded);
  });

  test.for([["test status message"], [unicode]])(
    "status_code_and_message: %j",
    async ([message]) => {
      const request = { responseStatus: { code: 2, message: message ?? "" } };
      async function* requests() {
        yield request;
      }

      const unary = await failureOf(connect().unaryCall(request));
      const duplex = await failureOf(sizesOf(connect().fullDuplexCall(requests())));

      expect([unary.code, unary.rawMessage]).toEqual([Code.Unknown, message]);
      expect([duplex.code, duplex.rawMessage]).toEqual([Code.Unknown, message]);
    },
  );

  test("custom_metadata", async () => {
    const binary = encodeBinaryHeader(Uint8Array.of(0x0a, 0x0b, 0x0a, 0x0b, 0xff, 0x00));
    const seen: (string | null)[] = [];
    const options = {
      headers: {
        "x-grpc-test-echo-initial": "test_initial_metadata_value",
        "x-grpc-test-echo-trailing-bin": binary,
      },
      onHeader: (header: Headers) => void seen.push(header.get("x-grpc-test-echo-initial")),
      onTrailer: (trailer: Headers) => void seen.push(trailer.get("x-grpc-test-echo-trailing-bin")),
    };
    async function* requests() {
      yield {};
    }

    await connect().unaryCall({}, options);
    await sizesOf(connect().fullDuplexCall(requests(), options));

    const wanted = ["test_initial_metadata_value", binary.replace(/=+$/, "")];
    expect(seen.map((value) => value?.replace(/=+$/, ""))).toEqual([...wanted, ...wanted]);
  });

  test("unimplemented_method and unimplemented_service", async () => {
    const other = createClient(UnimplementedService, open(false));

    const method = await failureOf(connect().unimplementedCall({}));
    const service = await failureOf(other.unimplementedCall({}));

    expect([method.code, service.code]).toEqual([Code.Unimplemented, Code.Unimplemented]);
  });
});

async function sizesOf(replies: AsyncIterable<StreamingOutputCallResponse>) {
  const received: (number | undefined)[] = [];
  for await (const { payload } of replies) {
    received.push(payload?.body.length);
  }
  return received;
}

async function* never(): AsyncGenerator<never> {
  await new Promise(() => {});
}

/** Runs a method through `buf curl`, which learns of it by reflection. */
async function bufCurl(method: string, requests: readonly unknown[], args: readonly string[] = []) {
  const url = `${at.url}/grpc.testing.TestService/${method}`;
  const command = ["node_modules/.bin/buf", "curl", "--http2-prior-knowledge", ...args, "-d", "@-"];
  const input = requests.map((request) => JSON.stringify(request)).join("\n");
  return await runCommand([...command, url], { input, timeoutMs: 15_000 });
}

const curlProtocols = ["grpc", "grpcweb", "connect"] as const;

describe.for(curlProtocols)("buf curl --protocol %s", (protocol) => {
  const curl = (method: string, requests: readonly unknown[], args: readonly string[] = []) =>
    bufCurl(method, requests, ["--protocol", protocol, ...args]);

  test.concurrent("unary: empty, large, with metadata", async () => {
    const body = Buffer.alloc(271_828).toString("base64");
    const metadata = ["-v", "-H", "x-grpc-test-echo-initial: test_initial_metadata_value"];

    const [empty, large] = await Promise.all([
      curl("EmptyCall", [{}], metadata),
      curl("UnaryCall", [{ responseSize: 314_159, payload: { body } }]),
    ]);

    expect(empty).toMatchObject({ code: 0, stdout: "{}\n" });
    expect(empty.stderr.toLowerCase()).toContain(
      "x-grpc-test-echo-initial: test_initial_metadata_value",
    );
    expect(large.code, large.stderr).toBe(0);
    expect(Buffer.from(JSON.parse(large.stdout).payload.body, "base64")).toHaveLength(314_159);
  });

  test.concurrent("streams of either side and of both", async () => {
    const sized = (size: number) => ({ body: Buffer.alloc(size).toString("base64") });
    const responseParameters = askedSizes.map((size) => ({ size }));

    const [input, output, duplex] = await Promise.all([
      curl(
        "StreamingInputCall",
        sizes.map(([, size]) => ({ payload: sized(size) })),
      ),
      curl("StreamingOutputCall", [{ responseParameters }]),
      curl(
        "FullDuplexCall",
        responseParameters.map((one) => ({ responseParameters: [one] })),
      ),
    ]);

    expect(JSON.parse(input.stdout)).toEqual({ aggregatedPayloadSize: 74_922 });
    expect(streamedSizes(output.stdout)).toEqual(askedSizes);
    expect(streamedSizes(duplex.stdout)).toEqual(askedSizes);
  });

  test.concurrent("a status with its message, and a method that is not implemented", async () => {
    const [status, missing] = await Promise.all([
      curl("UnaryCall", [{ responseStatus: { code: 2, message: unicode } }]),
      curl("UnimplementedCall", [{}]),
    ]);

    expect(JSON.parse(status.stderr)).toMatchObject({ code: "unknown", message: unicode });
    expect(JSON.parse(missing.stderr)).toMatchObject({ code: "unimplemented" });
  });
});

function streamedSizes(stdout: string): number[] {
  const bodies = [...stdout.matchAll(/"body":\s*"([^"]*)"/g)];
  return bodies.map(([, body = ""]) => Buffer.from(body, "base64").length);
}

test.skipIf(process.env.CALLORA_TEST_WITHOUT_PYTHON === "1")(
  "python3-grpcio passes every case",
  async () => {
    const python = "/usr/bin/python3";
    const probe = existsSync(python)
      ? await runCommand([python, "-c", "import grpc"], { timeoutMs: 15_000 })
      : { code: 1 };
    if (probe.code !== 0) {
      throw new Error(
        "Cannot run the interoperability cases of grpcio: install the Debian package " +
          "python3-grpcio; CALLORA_TEST_WITHOUT_PYTHON=1 leaves this test out",
      );
    }

    const broken: string[] = [];
    for (const name of ["StreamingInputCall", "FullDuplexCall"]) {
      events.on(`left ${name}`, () => void broken.push(name));
    }

    const { stdout, stderr } = await runCommand(
      [python, "test/support/interop.py", String(at.port)],
      { timeoutMs: 18_000 },
    );

    const lines = stdout.trim().split("\n").filter(Boolean);
    const verdicts = lines.map((line) => JSON.parse(line) as { name: string; wrong: unknown });
    expect(verdicts.filter(({ wrong }) => wrong !== null)).toEqual([]);
    expect(verdicts, stderr).toHaveLength(15);
    // Node's own clients end a stream just before they reset it; this one only resets it.
    expect(broken).toEqual(expect.arrayContaining(["StreamingInputCall", "FullDuplexCall"]));
  },
);
