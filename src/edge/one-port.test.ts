import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { connect as connectTcp } from "node:net";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect, test } from "vitest";
import { LibraryService } from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { libraryService, mount, noSteps, startEdge } from "../../test/support/edge.ts";
import { openPolicy } from "../rpc/policy.ts";
import { endResponse } from "./http-message.ts";
import { createEdge } from "./server.ts";
import { entry } from "./service-entry.ts";

const quiet = { steps: noSteps, onFinish: () => {}, onError: () => {} };

test("close lets running calls of both HTTP versions finish, and takes no more", async () => {
  const begun = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const finish = Promise.withResolvers<void>();
  let count = 0;
  const at = await startEdge({
    mounts: [
      mount("GET", "/slow", {
        handler: async (_request, response) => {
          begun[count++]?.resolve();
          await finish.promise;
          endResponse(response, "whole");
        },
      }),
    ],
  });
  const session = connectHttp2(at.url);
  // Read at once: a client drops what nobody reads of a session that ends.
  const text = session.request({ ":path": "/slow" }).setEncoding("utf8").toArray();
  const http1 = fetch(`${at.url}/slow`);
  await Promise.all(begun.map(({ promise }) => promise));

  const goaway = once(session, "goaway");
  const closed = at.edge.close({ graceMs: 10_000 });
  await goaway;
  const refused = await fetch(`${at.url}/slow`).catch((error) => error.cause.code);
  finish.resolve();
  const reply = await http1;
  const chunks = await text;
  await closed;

  expect(refused).toBe("ECONNREFUSED");
  expect(await reply.text()).toBe("whole");
  expect(reply.headers.get("connection")).toBe("close");
  expect(chunks.join("")).toBe("whole");
});

test("close ends a call that outlives the grace time", async () => {
  const begun = Promise.withResolvers<void>();
  let count = 0;
  const library = libraryService();
  const counted: typeof library = {
    ...library,
    lendBook(request, context) {
      if (++count === 2) {
        begun.resolve();
      }
      return library.lendBook(request, context);
    },
  };
  const at = await startEdge({ services: [entry(LibraryService, counted, openPolicy)] });
  const client = createClient(LibraryService, createGrpcTransport({ baseUrl: at.url }));
  const endless = client.lendBook({ id: "b1" }).catch((error) => error);
  const rest = fetch(`${at.url}/v1/books/b1:lend`, { method: "POST" });
  await begun.promise;

  await at.edge.close({ graceMs: 50 });

  expect(await endless).toMatchObject({ code: 14 });
  expect((await rest).status).toBe(503);
});

test("listen rejects with the system's error when the port is taken", async () => {
  await using at = await startEdge();
  const other = createEdge({ ...quiet, services: [] });

  await expect(other.listen({ host: "127.0.0.1", port: at.port })).rejects.toMatchObject({
    code: "EADDRINUSE",
  });
});

test("a connection that stays silent, or stops within the preface, is closed", async () => {
  await using at = await startEdge({ limits: { firstByteTimeoutMs: 500 } });
  const silent = connectTcp(at.port, "127.0.0.1");
  const half = connectTcp(at.port, "127.0.0.1");
  half.write("PRI * HT");

  await Promise.all([once(silent, "close"), once(half, "close")]);

  expect((await fetch(`${at.url}/v1/books/b1`)).status).toBe(200);
});

test("HTTP/1.1 headers that never end are given up on", async () => {
  const limits = { headersTimeoutMs: 100, requestTimeoutMs: 100, checkIntervalMs: 20 };
  await using at = await startEdge({ limits });
  const slow = connectTcp(at.port, "127.0.0.1");
  slow.write("GET / HTTP/1.1\r\nhost: a\r\n");

  const [reply] = await once(slow, "data");

  expect(String(reply)).toMatch(/^HTTP\/1\.1 408/);
  slow.destroy();
});

test("HTTP/2 is recognised when its preface comes in parts", async () => {
  await using at = await startEdge();
  const socket = connectTcp({ port: at.port, host: "127.0.0.1", noDelay: true });
  await once(socket, "connect");

  for (const part of ["PRI * HTTP/2.0\r\n", "\r\nSM\r\n", "\r\n", "\0\0\0\u0004\0\0\0\0\0"]) {
    await new Promise((resolve) => socket.write(part, "latin1", resolve));
  }
  const [reply] = await once(socket, "data");

  // The first frame of a server is SETTINGS, type 4.
  expect((reply as Buffer)[3]).toBe(4);
  socket.destroy();
});

test("a client that leaves ends the work for it", async () => {
  const left = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  await using at = await startEdge({
    mounts: [
      mount("GET", "/slow", {
        handler: async (_request, _response, { call }) => {
          call.signal.addEventListener("abort", () => left.resolve());
          begun.resolve();
          await left.promise;
        },
      }),
    ],
  });
  const abort = new AbortController();
  const finish = at.nextFinish();
  const reply = fetch(`${at.url}/slow`, { signal: abort.signal }).catch(() => {});
  await begun.promise;

  abort.abort();

  await left.promise;
  await reply;
  await finish;
  expect(at.finished[0]?.statusCode).toBe(499);
});

test("a connection that has shown nothing yet does not hold up a close", async () => {
  const at = await startEdge();
  const silent = connectTcp(at.port, "127.0.0.1");
  await once(silent, "connect");
  await fetch(`${at.url}/v1/books/b1`);

  await Promise.all([once(silent, "close"), at.edge.close({ graceMs: 60_000 })]);
});

test("an HTTP/2 session without streams ends, one with a quiet stream goes on", async () => {
  const finish = Promise.withResolvers<void>();
  await using at = await startEdge({
    limits: { sessionIdleTimeoutMs: 500 },
    mounts: [
      mount("GET", "/slow", {
        handler: async (_request, response) => {
          await finish.promise;
          endResponse(response, "whole");
        },
      }),
    ],
  });
  const busy = connectHttp2(at.url);
  const stream = busy.request({ ":path": "/slow" });
  const idle = connectHttp2(at.url);

  await once(idle, "close");
  finish.resolve();
  const chunks = await stream.setEncoding("utf8").toArray();

  expect(chunks.join("")).toBe("whole");
  busy.close();
});

test("over HTTP/2 a body too large is refused while it is sent", async () => {
  await using at = await startEdge();
  const session = connectHttp2(at.url);
  const stream = session.request({
    ":method": "POST",
    ":path": "/v1/books",
    "content-type": "application/json",
  });
  stream.on("error", () => {});
  const chunk = Buffer.alloc(1024 * 1024, "a");
  const send = () => {
    while (!stream.destroyed && stream.write(chunk)) {
      // As fast as the window allows, for ever.
    }
  };
  stream.on("drain", send);
  send();

  const body: string[] = [];
  stream.setEncoding("utf8").on("data", (text: string) => body.push(text));
  const [[headers]] = await Promise.all([once(stream, "response"), once(stream, "end")]);

  expect(headers[":status"]).toBe(413);
  expect(stream.rstCode).toBe(0);
  expect(JSON.parse(body.join(""))).toMatchObject({ code: 8 });
  session.destroy();
});
