import { once } from "node:events";
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from "node:http2";
import { afterAll, expect, test } from "vitest";
import { startEdge } from "../../test/support/edge.ts";

const at = await startEdge();
afterAll(() => at[Symbol.asyncDispose]());

/** More than three of them together are more than Node holds for a session unless told otherwise. */
function askMuch(session: ClientHttp2Session): ClientHttp2Stream {
  return session.request({ ":path": "/v1/books?page_size=60000" });
}

async function sizeOf(stream: ClientHttp2Stream): Promise<number> {
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
  }
  return size;
}

test("many large replies share a session, each whole", async () => {
  const session = connect(at.url, { settings: { initialWindowSize: 65_535 } });

  const sizes = await Promise.all(Array.from({ length: 8 }, () => sizeOf(askMuch(session))));

  session.close();
  expect(Math.min(...sizes)).toBe(Math.max(...sizes));
  expect(sizes[0]).toBeGreaterThan(4_000_000);
});

test("large replies that are cancelled leave a session usable", async () => {
  const session = connect(at.url, { settings: { initialWindowSize: 65_535 } });
  for (let done = 0; done < 18; done++) {
    const stream = askMuch(session);
    await once(stream, "response");
    stream.close(0x8);
    await once(stream, "close");
  }

  const size = await sizeOf(session.request({ ":path": "/v1/books/b1" }));

  session.close();
  expect(size).toBeGreaterThan(0);
});
