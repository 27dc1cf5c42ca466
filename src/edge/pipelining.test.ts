import { once } from "node:events";
import { connect } from "node:net";
import { expect, test } from "vitest";
import { LibraryService } from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { libraryService, mount, startEdge } from "../../test/support/edge.ts";
import { openPolicy } from "../rpc/policy.ts";
import { endResponse } from "./http-message.ts";
import { entry } from "./service-entry.ts";

const get = (path: string) => `GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`;

test("requests sent at once are answered in their order, whichever is ready first", async () => {
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
  const body = '{"book":{"title":"one"}}';
  const head = "POST /v1/books HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
  const post = `${head}content-length: ${body.length}\r\n\r\n${body}`;
  const last = at.nextFinish();
  const socket = connect(at.port, "127.0.0.1");
  const closed = socket.setEncoding("utf8").toArray();
  socket.write(
    `${get("/slow")}${post}${get("/nothing").replace("GET", "HEAD")}${get("/v1/books/b1")}`,
  );
  setImmediate(go.resolve);
  await last;
  socket.end(get("/v1/books/b1").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));

  const text = (await closed).join("");
  expect(text.match(/HTTP\/1\.1 \d+/g)?.map((line) => line.slice(9))).toEqual([
    "200",
    "200",
    "404",
    "200",
    "200",
  ]);
  expect(text.indexOf("slow")).toBeLessThan(text.indexOf('"one"'));
});

test("a client that leaves before its requests are answered has left all of them", async () => {
  const begun = Promise.withResolvers<void>();
  await using at = await startEdge({
    mounts: [mount("GET", "/never", { handler: () => begun.resolve() })],
  });
  const socket = connect(at.port, "127.0.0.1");
  socket.write(`${get("/never")}${get("/v1/books/b1")}${get("/v1/books/b1")}`);
  await begun.promise;
  const finished = [at.nextFinish(), at.nextFinish(), at.nextFinish()];

  socket.destroy();
  await once(socket, "close");
  await Promise.all(finished);

  expect(at.finished).toHaveLength(3);
  expect(at.errors).toEqual([]);
});

test("a client may ask before it sends a body", async () => {
  await using at = await startEdge();
  const socket = connect({ port: at.port, host: "127.0.0.1" }).setEncoding("utf8");
  const body = '{"book":{"title":"one"}}';
  socket.write(
    "POST /v1/books HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n" +
      `connection: close\r\ncontent-length: ${body.length}\r\n\r\n`,
  );
  const [first] = await once(socket, "data");
  socket.write(body);

  const rest = (await socket.toArray()).join("");
  expect(first).toBe("HTTP/1.1 100 Continue\r\n\r\n");
  expect(rest).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
});

test.for([
  ["of a path that nobody knows", "/nothing", 404],
  ["that is refused", "/v1/books?colour=red", 400],
] as const)("the body of a request %s is passed over", async ([, path, status]) => {
  await using at = await startEdge();
  const socket = connect({ port: at.port, host: "127.0.0.1" }).setEncoding("utf8");
  const size = 300_000;
  socket.write(
    `POST ${path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${size}\r\n\r\n`,
  );
  const [first] = path === "/nothing" ? await once(socket, "data") : [""];
  socket.write(" ".repeat(size));
  socket.end(get("/v1/books/b1"));

  const text = first + (await socket.toArray()).join("");
  const statuses = [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, code]) => Number(code));
  expect(statuses).toEqual([status, 200]);
});

test("a reply that is ready when the server stops, or its client leaves, harms no other", async () => {
  const stop = Promise.withResolvers<void>();
  const at = await startEdge({
    services: [
      entry(
        LibraryService,
        {
          ...libraryService(),
          getBook({ id }) {
            // Before what this turn has made ready is written.
            setImmediate(() =>
              id === "stop" ? stop.resolve(at.edge.close({ graceMs: 5_000 })) : {},
            );
            setImmediate(() => (id === "leave" ? leaving.resetAndDestroy() : {}));
            return { book: { id } };
          },
        },
        openPolicy,
      ),
    ],
  });
  const open = () => connect({ port: at.port, host: "127.0.0.1" }).setEncoding("utf8");
  const [leaving, staying, stopping] = [open(), open(), open()];
  await Promise.all([leaving, staying, stopping].map((socket) => once(socket, "connect")));

  leaving.write(get("/v1/books/leave"));
  staying.write(get("/v1/books/b1"));
  const [stayed] = await once(staying, "data");
  stopping.write(get("/v1/books/stop"));
  const stopped = (await stopping.toArray()).join("");
  await stop.promise;

  expect(stayed).toContain('"id":"b1"');
  expect(stopped).toContain('"id":"stop"');
  expect(at.errors).toEqual([]);
});
