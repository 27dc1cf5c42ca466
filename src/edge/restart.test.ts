import { once } from "node:events";
import { Agent, request as requestHttp1 } from "node:http";
import { type ClientHttp2Session, connect } from "node:http2";
import { connect as connectTcp } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus } from "../../gen/grpc/health/v1/health_pb.ts";
import { mount, startEdge } from "../../test/support/edge.ts";
import { endResponse } from "./http-message.ts";

const slow = mount("GET", "/slow", {
  handler: async (_request, response) => {
    await sleep(5);
    endResponse(response, "whole");
  },
});

const retriesMax = 50;

/** Try until there is an answer. Only for what the server cannot have begun to serve. */
async function retrying<T>(attempt: () => Promise<T>): Promise<T> {
  for (let count = 0; ; count++) {
    try {
      return await attempt();
    } catch (error) {
      const code = String((error as NodeJS.ErrnoException).code);
      if (!/ECONNREFUSED|ERR_HTTP2_GOAWAY_SESSION|ERR_HTTP2_INVALID_SESSION/.test(code)) {
        throw error;
      }
      if (count === retriesMax) {
        throw error;
      }
      await sleep(10);
    }
  }
}

function http1Client(port: number) {
  const agent = new Agent({ keepAlive: true });
  return {
    get: () =>
      retrying(async () => {
        const request = requestHttp1({ port, host: "127.0.0.1", path: "/slow", agent });
        const [reply] = await once(request.end(), "response");
        return (await reply.setEncoding("utf8").toArray()).join("");
      }),
    close: () => agent.destroy(),
  };
}

function http2Client(port: number) {
  let session: ClientHttp2Session | undefined;
  const open = async (): Promise<ClientHttp2Session> => {
    if (session === undefined || session.closed || session.destroyed) {
      const made = connect(`http://127.0.0.1:${port}`);
      session = made;
      made.on("error", () => {});
      made.on("goaway", () => {
        // No new streams on it, but those that run go on.
        session = session === made ? undefined : session;
        made.close();
      });
      await once(made, "connect");
    }
    return session ?? open();
  };
  return {
    get: () =>
      retrying(async () => {
        const stream = (await open()).request({ ":path": "/slow" });
        const failed = once(stream, "error").then(([error]) => Promise.reject(error));
        failed.catch(() => {});
        const read = stream.setEncoding("utf8").toArray();
        return (await Promise.race([read, failed])).join("");
      }),
    close: () => session?.destroy(),
  };
}

test.for([
  { name: "HTTP/1.1", clientOf: http1Client },
  { name: "HTTP/2", clientOf: http2Client },
])("no request over $name is lost when a server takes over from another", async ({ clientOf }) => {
  let at = await startEdge({ mounts: [slow] });
  const { port } = at;
  const clients = Array.from({ length: 8 }, () => clientOf(port));
  let isOver = false;
  let served = 0;
  const load = clients.map(async ({ get }) => {
    while (!isOver) {
      expect(await get()).toBe("whole");
      served++;
    }
  });
  load.forEach((one) => void one.catch(() => {}));
  await expect.poll(() => served).toBeGreaterThan(50);

  for (let restart = 0; restart < 4; restart++) {
    const closed = at.edge.close({ graceMs: 10_000 });
    at = await startEdge({ mounts: [slow], port });
    const before = served;
    await closed;
    await expect.poll(() => served).toBeGreaterThan(before + 50);
  }
  isOver = true;

  await Promise.all(load);
  for (const { close } of clients) {
    close();
  }
  await at.edge.close({ graceMs: 0 });
});

test("a request that came while the process was busy is served before its connection is idle", async () => {
  const at = await startEdge();
  const socket = connectTcp({ port: at.port, host: "127.0.0.1" }).setEncoding("utf8");
  const get = "GET /v1/books/b1 HTTP/1.1\r\nhost: a\r\n\r\n";
  socket.write(get);
  await once(socket, "data");

  const closed = at.edge.close({ graceMs: 10_000 });
  socket.write(get);
  // Longer than it waits for what is on its way.
  const endMs = performance.now() + 400;
  while (performance.now() < endMs) {}
  const [reply] = await Promise.all([socket.toArray(), closed]);

  expect(reply.join("")).toMatch(/^HTTP\/1\.1 200 [\s\S]*"b1"/);
});

test("whoever watches a service's health hears that it stops, before its calls are told", async () => {
  const at = await startEdge({
    health: { status: () => "SERVING", onChange: () => () => {} },
  });
  const client = createClient(Health, createGrpcTransport({ baseUrl: at.url }));
  const watch = client.watch({ service: "" })[Symbol.asyncIterator]();
  const first = await watch.next();

  const closed = at.edge.close({ graceMs: 10_000 });
  const last = await watch.next();
  const end = await watch.next();
  await closed;

  expect(first.value?.status).toBe(HealthCheckResponse_ServingStatus.SERVING);
  expect(last.value?.status).toBe(HealthCheckResponse_ServingStatus.NOT_SERVING);
  expect(end.done).toBe(true);
});
