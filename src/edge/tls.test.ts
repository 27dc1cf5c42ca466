import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { request as requestHttps } from "node:https";
import { connect as connectTcp } from "node:net";
import { connect as connectTls } from "node:tls";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect, test } from "vitest";
import { LibraryService } from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { startEdge } from "../../test/support/edge.ts";
import { identity, stranger } from "../../test/support/identity.ts";
import { connectRaw, types } from "../../test/support/raw-http2.ts";

const trusting = { ca: identity.cert };

async function getOverHttps(port: number, path: string) {
  const request = requestHttps({ host: "127.0.0.1", port, path, ...trusting, agent: false });
  const [reply] = await once(request.end(), "response");
  const chunks = await reply.setEncoding("utf8").toArray();
  return { status: reply.statusCode, version: reply.httpVersion, body: chunks.join("") };
}

test("with TLS one port speaks HTTP/1.1 and HTTP/2, as ALPN says", async () => {
  await using at = await startEdge({ tls: identity });
  const baseUrl = `https://127.0.0.1:${at.port}`;
  const client = createClient(
    LibraryService,
    createGrpcTransport({ baseUrl, nodeOptions: trusting }),
  );

  const grpc = await client.getBook({ id: "b1" });
  const rest = await getOverHttps(at.port, "/v1/books/b1");
  const session = connectHttp2(baseUrl, trusting);
  const [reply] = await once(session.request({ ":path": "/v1/books/b1" }), "response");
  session.close();

  expect(grpc.book?.title).toBe("Momo");
  expect(rest).toMatchObject({ status: 200, version: "1.1" });
  expect(reply[":status"]).toBe(200);
});

test("a client without ALPN gets HTTP/1.1, one that wants another protocol none", async () => {
  await using at = await startEdge({ tls: identity });
  const plain = connectTls({ host: "127.0.0.1", port: at.port, ...trusting });
  plain.write("GET /v1/books/b1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
  const other = connectTls({
    host: "127.0.0.1",
    port: at.port,
    ...trusting,
    ALPNProtocols: ["spdy/3"],
  });

  const [[reply], [error]] = await Promise.all([once(plain, "data"), once(other, "error")]);

  expect(String(reply)).toMatch(/^HTTP\/1\.1 200/);
  expect(error.code).toBe("ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL");
  plain.destroy();
});

test("where clients must have a certificate, one without it, or with another's, does not get through", async () => {
  await using at = await startEdge({ tls: { ...identity, clientCa: identity.cert } });
  const get = async (own: object) => {
    const options = { host: "127.0.0.1", port: at.port, path: "/v1/books/b1", agent: false };
    const request = requestHttps({ ...options, ...trusting, ...own });
    const [reply] = await once(request.end(), "response");
    return reply.resume().statusCode;
  };

  expect(await get(identity)).toBe(200);
  await expect(get({})).rejects.toThrow();
  await expect(get(stranger)).rejects.toThrow();
  expect(at.finished).toHaveLength(1);
});

test("with TLS a request in the clear is told so, in its own protocol", async () => {
  await using at = await startEdge({ tls: identity });

  const http1 = await fetch(`http://127.0.0.1:${at.port}/v1/books/b1`);
  const http2 = await connectRaw(at.port);
  await http2.closed;

  expect(http1.status).toBe(400);
  expect(await http1.json()).toMatchObject({ message: expect.stringContaining("speaks TLS") });
  expect(http2.goawayCode()).toBe(0xc);
  const goaway = http2.frames.find(({ type }) => type === types.goaway);
  expect(goaway?.payload.toString("latin1", 8)).toContain("speaks TLS");
  expect(at.finished).toEqual([]);
});

test("a TLS handshake that stops is given up on", async () => {
  await using at = await startEdge({ tls: identity, limits: { firstByteTimeoutMs: 50 } });
  const socket = connectTcp(at.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.write(Buffer.from([0x16, 3, 1, 2, 0, 1]));

  await once(socket, "close");

  expect(at.finished).toEqual([]);
});

test("a close over TLS lets running calls finish and waits for no idle connection", async () => {
  const at = await startEdge({ tls: identity });
  const session = connectHttp2(`https://127.0.0.1:${at.port}`, trusting);
  const idle = connectTls({ host: "127.0.0.1", port: at.port, ...trusting });
  await once(idle, "secureConnect");
  const stream = session.request({ ":path": "/v1/books/b1" });
  await once(stream, "response");

  const closed = at.edge.close({ graceMs: 60_000 });
  const [chunks] = await Promise.all([
    stream.setEncoding("utf8").toArray(),
    once(idle, "close"),
    closed,
  ]);

  expect(chunks.join("")).toContain("Momo");
});
