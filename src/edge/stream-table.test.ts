import { once } from "node:events";
import { connect, createServer, type Http2Session, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { types } from "node:util";
import { expect, test } from "vitest";
import { replaceStreamTable } from "./stream-table.ts";

// A Node whose sessions look otherwise would be left as it is, and nothing else would say so.
test("this Node keeps its open streams in the other table, and closes them by it", async () => {
  const server = createServer();
  server.on("session", replaceStreamTable);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  client.on("error", () => {});
  const open = async (): Promise<ServerHttp2Stream> => {
    client
      .request()
      .on("error", () => {})
      .resume();
    const [stream] = await once(server, "stream");
    return stream.on("error", () => {});
  };

  const [first, second] = [await open(), await open()];
  const { session } = second;
  const table = tableOf(session);
  const sizes = [table.size];
  first.respond();
  first.end();
  await once(first, "close");
  sizes.push(table.size);
  client.destroy();
  await once(second, "close");
  sizes.push(table.size);

  expect(types.isMap(table)).toBe(false);
  expect(sizes).toEqual([2, 1, 0]);
  server.close();
});

/** Where Node keeps the open streams of a session. */
function tableOf(session: Http2Session | undefined): { size: number } {
  const symbols = Object.getOwnPropertySymbols(session ?? {});
  const state = symbols.find(({ description }) => description === "state");
  return Reflect.get(Reflect.get(session ?? {}, state ?? ""), "streams");
}
