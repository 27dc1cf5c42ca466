import { once } from "node:events";
import { request } from "node:http";
import { brotliDecompressSync, gunzipSync, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startEdge } from "../../test/support/edge.ts";

let at: Awaited<ReturnType<typeof startEdge>>;
beforeAll(async () => {
  at = await startEdge({ corsOrigins: ["https://console.example"] });
});
afterAll(async () => {
  await at.edge.close({ graceMs: 0 });
});

/** As fetch does, but without undoing the encoding. */
async function get(path: string, headers: Record<string, string>, method = "GET") {
  const [reply] = await once(request(at.url + path, { headers, method }).end(), "response");
  const body = Buffer.concat(await reply.toArray());
  return { status: reply.statusCode, headers: reply.headers, body };
}

test.for([
  { encoding: "gzip", decompress: gunzipSync },
  { encoding: "br", decompress: brotliDecompressSync },
  { encoding: "zstd", decompress: zstdDecompressSync },
])("a reply of 1 KiB or more is compressed with $encoding", async ({ encoding, decompress }) => {
  const path = "/v1/books?page_size=50";
  const plain = await get(path, {});

  const packed = await get(path, { "accept-encoding": encoding });

  expect(plain.headers["content-encoding"]).toBeUndefined();
  expect(packed.headers["content-encoding"]).toBe(encoding);
  expect(packed.headers["content-length"]).toBe(String(packed.body.length));
  expect(packed.body.length).toBeLessThan(plain.body.length / 2);
  expect(decompress(packed.body)).toEqual(plain.body);
  for (const { headers } of [plain, packed]) {
    expect(headers.vary).toBe("origin, accept-encoding");
  }
});

test("a small reply is not, and HEAD has the length of what GET sends", async () => {
  const small = await get("/v1/books/b1", { "accept-encoding": "gzip" });
  const headers = { "accept-encoding": "gzip" };
  const large = await get("/v1/books?page_size=50", headers);
  const head = await get("/v1/books?page_size=50", headers, "HEAD");

  expect(small.headers["content-encoding"]).toBeUndefined();
  expect(head.headers["content-encoding"]).toBe("gzip");
  expect(head.headers["content-length"]).toBe(large.headers["content-length"]);
  expect(head.body).toHaveLength(0);
});

test("a body in zstd is read, and bounded once unpacked", async () => {
  const post = (body: Uint8Array<ArrayBuffer>) =>
    fetch(`${at.url}/v1/books`, {
      method: "POST",
      body,
      headers: { "content-type": "application/json", "content-encoding": "zstd" },
    });

  const small = await post(Buffer.from(zstdCompressSync('{"book":{"title":"Momo"}}')));
  const bomb = await post(
    Buffer.from(zstdCompressSync(`{"requestId":"${"a".repeat(5 * 1024 * 1024)}"}`)),
  );
  const broken = await post(Buffer.from("{}"));

  expect(await small.json()).toMatchObject({ title: "Momo" });
  expect([bomb.status, broken.status]).toEqual([413, 400]);
});
