import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { expect, test } from "vitest";
import { mount, startEdge } from "../../test/support/edge.ts";
import { endResponse } from "./http-message.ts";

/** Send the parts, each once the one before has been read, and return what comes back until the close. */
async function exchange(port: number, parts: readonly string[]): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1", noDelay: true });
  const chunks: string[] = [];
  socket.setEncoding("utf8").on("data", (text: string) => chunks.push(text));
  // The server may close before it has read everything.
  socket.on("error", () => {});
  const closed = once(socket, "close");
  await once(socket, "connect");
  for (const part of parts) {
    await new Promise((resolve) => socket.write(part, resolve));
    // Both ends are in this process: now the server has read it.
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await closed;
  return chunks.join("");
}

const long = "a".repeat(17_000);
const half = "b".repeat(10_000);
const host = "HTTP/1.1\r\nhost: a\r\n";

test.for<[string, string[], number, string]>([
  ["a path too long", [`GET /${long} ${host}\r\n`], 414, "PATH_TOO_LONG"],
  ["a query too long", [`GET /v1/books?a=${long} ${host}\r\n`], 414, "PATH_TOO_LONG"],
  ["a query in parts", [`GET /v1/books?a=${half}`, `&b=${half}`], 414, "PATH_TOO_LONG"],
  ["a header too long", [`GET / ${host}x: ${long}\r\n\r\n`], 431, "HEADERS_TOO_LARGE"],
  ["a header in parts", [`GET / ${host}x: ${half}`, half], 431, "HEADERS_TOO_LARGE"],
  ["a cookie in parts", [`GET / ${host}cookie: a=b`, `; c=${long}`], 431, "HEADERS_TOO_LARGE"],
  ["many headers", [`GET / ${host}${`x: ${half}\r\n`.repeat(3)}\r\n`], 431, "HEADERS_TOO_LARGE"],
  ["no HTTP", ["HELLO\r\n\r\n"], 400, "REQUEST_INVALID"],
  ["a space in the path", [`GET /a b ${host}\r\n`], 400, "REQUEST_INVALID"],
  [
    "a broken chunk",
    [
      `POST /v1/books ${host}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nx\r\n`,
    ],
    400,
    "REQUEST_INVALID",
  ],
])("%s is answered with a reason, and the connection closed", async ([, parts, status, reason]) => {
  await using at = await startEdge();

  const reply = await exchange(at.port, parts);

  const [head = "", body = ""] = reply.split("\r\n\r\n");
  const { details } = JSON.parse(body);
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} [A-Z]`));
  expect(head).toContain(`content-length: ${Buffer.byteLength(body)}`);
  expect(head).toContain("content-type: application/json");
  expect(details[0]).toMatchObject({ reason, domain: "callora" });
  expect(head).toContain(`x-request-id: ${details[1].requestId}`);
  expect(at.errors).toEqual([]);
});

test("requests that came before broken bytes are answered before", async () => {
  const go = Promise.withResolvers<void>();
  await using at = await startEdge({
    mounts: [
      mount("GET", "/slow", {
        handler: async (_request, response) => {
          await go.promise;
          endResponse(response, "slow");
        },
      }),
    ],
  });
  const get = (path: string) => `GET ${path} ${host}\r\n`;
  setTimeout(go.resolve, 100);

  const reply = await exchange(at.port, [
    `${get("/v1/books/b1")}${get("/slow")}${get(`/${long}`)}`,
    "more that is not HTTP",
  ]);

  const statuses = [...reply.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status);
  expect(statuses).toEqual(["200", "200", "414"]);
  expect(reply).toContain("slow");
});

test("a target too long over HTTP/2 is answered, and the session goes on", async () => {
  await using at = await startEdge();
  const session = connectHttp2(at.url);
  const get = async (path: string) => {
    const stream = session.request({ ":path": path, accept: "application/problem+json" });
    const [headers] = await once(stream, "response");
    return {
      status: headers[":status"],
      body: (await stream.setEncoding("utf8").toArray()).join(""),
    };
  };

  const refused = await get(`/v1/books?name=${long}`);
  const served = await get("/v1/books/b1");
  session.close();

  expect(refused.status).toBe(414);
  expect(JSON.parse(refused.body)).toMatchObject({ title: "URI Too Long", status: 414 });
  expect(served.status).toBe(200);
});
