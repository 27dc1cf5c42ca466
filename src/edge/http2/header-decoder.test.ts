import { describe, expect, test } from "vitest";
import { errorCodes } from "./codes.ts";
import { HeaderDecoder } from "./header-decoder.ts";

function bytes(hex: string): Buffer {
  return Buffer.from(hex.replaceAll(" ", ""), "hex");
}

const listBytesMax = 32 * 1024;

/** What the decoder of one connection makes of blocks, one after the other. */
function decodeAll(blocks: readonly string[]): string[][] {
  const decoder = new HeaderDecoder(listBytesMax);
  return blocks.map((block) => decoder.decode(bytes(block)).fields);
}

const requests = [
  [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "www.example.com"],
  [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "www.example.com"].concat([
    "cache-control",
    "no-cache",
  ]),
  [":method", "GET", ":scheme", "https", ":path", "/index.html"].concat([
    ":authority",
    "www.example.com",
    "custom-key",
    "custom-value",
  ]),
];

const date = "Mon, 21 Oct 2013 20:13:21 GMT";
const location = "https://www.example.com";
const cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
const responses = [
  [":status", "302", "cache-control", "private", "date", date, "location", location],
  [":status", "307", "cache-control", "private", "date", date, "location", location],
  [":status", "200", "cache-control", "private", "date", "Mon, 21 Oct 2013 20:13:22 GMT"].concat([
    "location",
    location,
    "content-encoding",
    "gzip",
    "set-cookie",
    cookie,
  ]),
];

describe("the examples of RFC 7541", () => {
  test("C.3: requests without Huffman code", () => {
    const decoded = decodeAll([
      "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
      "8286 84be 5808 6e6f 2d63 6163 6865",
      "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
    expect(decoded).toEqual(requests);
  });

  test("C.4: requests with Huffman code", () => {
    const decoded = decodeAll([
      "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
      "8286 84be 5886 a8eb 1064 9cbf",
      "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
    expect(decoded).toEqual(requests);
  });

  // The examples assume a table of 256 bytes: here the first block says so.
  test("C.6: responses with Huffman code, in a table that older fields must leave", () => {
    const decoded = decodeAll([
      `3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
       29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3`.replaceAll("\n", ""),
      "4883 640e ffc1 c0bf",
      `88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d
       d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106
       3d50 07`.replaceAll("\n", ""),
    ]);
    expect(decoded).toEqual(responses);
  });
});

test.for([
  ["a field of index 0", "80"],
  ["a field beyond the tables", "be"],
  ["a name beyond the tables", "7e 01 61"],
  ["a number that ends early", "ff"],
  ["a number too large", "ff ff ff ff ff ff 7f"],
  ["a text that ends early", "00 05 61 62"],
  ["a name without a value", "00 01 61"],
  ["a table larger than was offered", "3f e2 1f"],
  ["a table that is resized after a field", "82 20"],
  ["the code for the end", "00 01 61 84 ff ff ff ff"],
  ["padding of zeros", "00 01 61 81 18"],
  ["padding of a byte", "00 01 61 82 1f ff"],
])("%s breaks the connection", ([, block = ""]) => {
  const decoder = new HeaderDecoder(listBytesMax);
  expect(() => decoder.decode(bytes(block))).toThrow(
    expect.objectContaining({ code: errorCodes.compressionError }),
  );
});

test("a table of nothing keeps nothing, and one that is made larger again begins empty", () => {
  const decoder = new HeaderDecoder(listBytesMax);
  decoder.decode(bytes("40 01 61 01 62"));
  expect(decoder.decode(bytes("be")).fields).toEqual(["a", "b"]);

  decoder.decode(bytes("20 3f e1 1f"));

  expect(() => decoder.decode(bytes("be"))).toThrow("no field of an index");
});

test("a field larger than the table empties it", () => {
  const decoder = new HeaderDecoder(listBytesMax);
  decoder.decode(bytes("40 01 61 01 62"));
  const large = Buffer.concat([bytes("40 01 63 7f 81 1f"), Buffer.alloc(4_096, "d")]);
  expect(decoder.decode(large).fields).toEqual(["c", "d".repeat(4_096)]);

  expect(() => decoder.decode(bytes("be"))).toThrow("no field of an index");
});

test("fields beyond the limit are left out, and count for the table", () => {
  const decoder = new HeaderDecoder(100);
  const block = "40 01 61 01 62 40 01 63 01 64 40 01 65 01 66 40 01 67 01 68";

  const { fields, isTooLarge } = decoder.decode(bytes(block));

  expect(fields).toEqual(["a", "b", "c", "d"]);
  expect(isTooLarge).toBe(true);
  expect(decoder.decode(bytes("be bf")).fields).toEqual(["g", "h", "e", "f"]);
});
