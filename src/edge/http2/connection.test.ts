import { describe, expect, test } from "vitest";
import { mount, startEdge } from "../../../test/support/edge.ts";
import { connectRaw, frame, getBlock, types } from "../../../test/support/raw-http2.ts";
import { openPolicy } from "../../rpc/policy.ts";
import type { RawMount } from "../mount.ts";
import { errorCodes, flags } from "./codes.ts";

const { endHeaders, endStream, padded, priority } = flags;
const whole = endHeaders | endStream;

/** A literal field that is kept in no table. */
function field(name: string, value: string): Buffer {
  const texts = [name, value].map((text) =>
    Buffer.concat([Buffer.from([text.length]), Buffer.from(text, "latin1")]),
  );
  return Buffer.concat([Buffer.from([0]), ...texts]);
}

const get = field(":method", "GET");
const post = field(":method", "POST");
const http = field(":scheme", "http");
const authority = field(":authority", "a");

/** The head of a request for a path, with more fields after it. */
function headOf(path: string, ...more: Buffer[]): Buffer {
  return Buffer.concat([post, http, field(":path", path), authority, ...more]);
}

/** Sends back what it is sent. */
const echo: RawMount = {
  method: "POST",
  pattern: "/echo",
  policy: openPolicy,
  raw(arrival) {
    const parts: Buffer[] = [];
    arrival.readTo({
      add: (part) => parts.push(part) > 0,
      finish: () => arrival.reply(200, [], Buffer.concat(parts)),
      fail: () => {},
    });
  },
  onShutdown() {},
};

/** Replies when the body has come, and never reads it. */
const ignore: RawMount = {
  method: "POST",
  pattern: "/ignore",
  policy: openPolicy,
  raw: (arrival) => void setTimeout(() => arrival.reply(204, [], undefined), 5),
  onShutdown() {},
};

/** Never reads a body, and replies when told. */
function silent() {
  const told = Promise.withResolvers<void>();
  const route = mount("POST", "/silent", {
    handler: async (_request, _response, { arrival }) => {
      await told.promise;
      arrival.reply(200, [], Buffer.from("late"));
    },
  });
  return { route, tell: told.resolve };
}

async function open() {
  const { route, tell } = silent();
  const at = await startEdge({ mounts: [echo, ignore, route] });
  const client = await connectRaw(at.port);
  return {
    at,
    tell,
    ...client,
    send: (...frames: Buffer[]) => client.socket.write(Buffer.concat(frames)),
    /** The code that a stream was reset with. */
    resetCode: (id: number) =>
      client.frames
        .find(({ type, stream }) => type === types.reset && stream === id)
        ?.payload.readUInt32BE(0),
    bodyOf: (id: number) =>
      Buffer.concat(
        client.frames
          .filter(({ type, stream }) => type === types.data && stream === id)
          .map(({ payload }) => payload),
      ),
    async [Symbol.asyncDispose]() {
      client.socket.destroy();
      await at[Symbol.asyncDispose]();
    },
  };
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function setting(name: number, value: number): Buffer {
  const bytes = Buffer.alloc(6);
  bytes.writeUInt16BE(name);
  bytes.writeUInt32BE(value, 2);
  return frame(types.settings, 0, 0, bytes);
}

const { protocolError, flowControlError, frameSizeError, compressionError, enhanceYourCalm } =
  errorCodes;

describe("what breaks the protocol ends the connection", () => {
  test.for([
    ["data of a stream that never was", frame(types.data, 0, 1), protocolError],
    ["data of no stream", frame(types.data, 0, 0), protocolError],
    [
      "a window of a stream that never was",
      frame(types.windowUpdate, 0, 1, number(1)),
      protocolError,
    ],
    ["a reset of a stream that never was", frame(types.reset, 0, 1, number(0)), protocolError],
    ["a reset of the wrong size", frame(types.reset, 0, 1, Buffer.alloc(3)), frameSizeError],
    ["a stream of an even number", frame(types.headers, whole, 2, getBlock), protocolError],
    ["a stream of number 0", frame(types.headers, whole, 0, getBlock), protocolError],
    ["a priority of the wrong size", frame(2, 0, 1, Buffer.alloc(4)), frameSizeError],
    ["a priority of no stream", frame(2, 0, 0, Buffer.alloc(5)), protocolError],
    ["a push", frame(5, endHeaders, 1, getBlock), protocolError],
    ["a PING of the wrong size", frame(types.ping, 0, 0, Buffer.alloc(7)), frameSizeError],
    ["a PING of a stream", frame(types.ping, 0, 1, Buffer.alloc(8)), protocolError],
    ["SETTINGS of the wrong size", frame(types.settings, 0, 0, Buffer.alloc(5)), frameSizeError],
    [
      "an acknowledgement with settings",
      frame(types.settings, 1, 0, Buffer.alloc(6)),
      frameSizeError,
    ],
    ["SETTINGS of a stream", frame(types.settings, 0, 1), protocolError],
    ["a push setting that is neither", setting(2, 2), protocolError],
    ["a frame size too small", setting(5, 16_383), protocolError],
    ["a frame size too large", setting(5, 2 ** 24), protocolError],
    ["a first window too large", setting(4, 2 ** 31), flowControlError],
    ["a window of nothing", frame(types.windowUpdate, 0, 0, number(0)), protocolError],
    ["a window too large", frame(types.windowUpdate, 0, 0, number(2 ** 31 - 1)), flowControlError],
    [
      "a window of the wrong size",
      frame(types.windowUpdate, 0, 0, Buffer.alloc(3)),
      frameSizeError,
    ],
    ["GOAWAY of the wrong size", frame(types.goaway, 0, 0, Buffer.alloc(7)), frameSizeError],
    ["a frame too large", frame(types.data, 0, 0, Buffer.alloc(16_385)), frameSizeError],
    [
      "a continuation of nothing",
      frame(types.continuation, endHeaders, 1, getBlock),
      protocolError,
    ],
    [
      "a header block that another frame cuts off",
      Buffer.concat([
        frame(types.headers, endStream, 1, getBlock),
        frame(types.ping, 0, 0, Buffer.alloc(8)),
      ]),
      protocolError,
    ],
    [
      "a header block that goes on in another stream",
      Buffer.concat([
        frame(types.headers, endStream, 1, getBlock),
        frame(types.continuation, endHeaders, 3),
      ]),
      protocolError,
    ],
    [
      "a broken header block",
      frame(types.headers, whole, 1, Buffer.from([0x80])),
      compressionError,
    ],
    [
      "more padding than content",
      frame(types.headers, whole | padded, 1, Buffer.from([9, 0x82])),
      protocolError,
    ],
    ["no room for the padding's size", frame(types.headers, whole | padded, 1), frameSizeError],
    [
      "no room for a priority",
      frame(types.headers, whole | priority, 1, Buffer.alloc(4)),
      frameSizeError,
    ],
  ] as const)("%s", async ([, sent, code]) => {
    await using client = await open();

    client.send(sent);
    await client.closed;

    expect(client.goawayCode()).toBe(code);
    expect(client.at.errors).toEqual([]);
  });

  test("a first frame that is not SETTINGS", async () => {
    await using at = await startEdge();
    const { connect } = await import("node:net");
    const socket = connect(at.port, "127.0.0.1");
    socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    socket.write(frame(types.ping, 0, 0, Buffer.alloc(8)));

    const chunks = Buffer.concat(await socket.toArray());

    expect(chunks.includes("The first frame is not SETTINGS")).toBe(true);
  });
});

describe("a malformed request resets its stream, and no more", () => {
  test.for([
    ["no method", [http, field(":path", "/"), authority]],
    ["no scheme", [get, field(":path", "/"), authority]],
    ["no path", [get, http, authority]],
    ["an empty path", [get, http, field(":path", ""), authority]],
    ["a path that is none", [get, http, field(":path", "a"), authority]],
    ["a path of * for GET", [get, http, field(":path", "*"), authority]],
    ["CONNECT with a path", [field(":method", "CONNECT"), field(":path", "/"), authority]],
    ["a method twice", [get, get, http, field(":path", "/"), authority]],
    ["a method that is none", [field(":method", "G T"), http, field(":path", "/")]],
    ["a pseudo-header that is none", [get, http, field(":path", "/"), field(":status", "200")]],
    ["a pseudo-header after the others", [get, http, field("a", "b"), field(":path", "/")]],
    ["a name in upper case", [headOf("/"), field("Accept", "a")]],
    ["a name with a space", [headOf("/"), field("a b", "a")]],
    ["an empty name", [headOf("/"), field("", "a")]],
    ["a value with the end of a line", [headOf("/"), field("a", "b\r\nc: d")]],
    ["a value with NUL", [headOf("/"), field("a", "b\0")]],
    ["a value with a space before it", [headOf("/"), field("a", " b")]],
    ["a connection", [headOf("/"), field("connection", "close")]],
    ["a transfer coding", [headOf("/"), field("transfer-encoding", "chunked")]],
    ["an upgrade", [headOf("/"), field("upgrade", "websocket")]],
    ["TE of more than trailers", [headOf("/"), field("te", "gzip")]],
    ["a length that is none", [headOf("/"), field("content-length", "+1")]],
    ["two lengths", [headOf("/"), field("content-length", "0"), field("content-length", "0")]],
    ["a length, and no body", [headOf("/"), field("content-length", "1")]],
  ] as const)("%s", async ([, fields]) => {
    await using client = await open();

    client.send(
      frame(types.headers, whole, 1, Buffer.concat(fields)),
      frame(types.headers, whole, 3, headOf("/echo")),
    );

    await expect.poll(() => client.frames.some(({ stream }) => stream === 3)).toBe(true);
    expect(client.resetCode(1)).toBe(protocolError);
    expect(client.resetCode(3)).toBeUndefined();
  });

  test.for([
    ["a body longer than its length", ["abc"], "2"],
    ["a body shorter than its length", ["a"], "2"],
  ] as const)("%s", async ([, parts, length]) => {
    await using client = await open();

    client.send(
      frame(types.headers, endHeaders, 1, headOf("/echo", field("content-length", length))),
    );
    for (const part of parts) {
      client.send(frame(types.data, endStream, 1, Buffer.from(part)));
    }

    await expect.poll(() => client.resetCode(1)).toBe(protocolError);
    expect(client.bodyOf(1).length).toBe(0);
  });

  test("fields after a body that do not end it, and data after its end", async () => {
    await using client = await open();

    client.send(
      frame(types.headers, endHeaders, 1, headOf("/silent")),
      frame(types.headers, endHeaders, 1, field("a", "b")),
      frame(types.headers, whole, 3, headOf("/silent")),
      frame(types.data, endStream, 3, Buffer.from("a")),
    );

    await expect.poll(() => client.resetCode(1)).toBe(protocolError);
    await expect.poll(() => client.resetCode(3)).toBe(errorCodes.streamClosed);
  });

  test("a head too large", async () => {
    await using client = await open();
    const large = Array.from({ length: 300 }, (_, index) => field(`n${index}`, "v".repeat(100)));
    const block = headOf("/echo", ...large);
    const parts = [0, 1, 2].map((index) => block.subarray(index * 16_384, (index + 1) * 16_384));

    client.send(
      frame(types.headers, endStream, 1, parts[0]),
      frame(types.continuation, 0, 1, parts[1]),
      frame(types.continuation, endHeaders, 1, parts[2]),
      frame(types.headers, whole, 3, headOf("/echo")),
    );

    await expect.poll(() => client.frames.some(({ stream }) => stream === 3)).toBe(true);
    expect(client.resetCode(1)).toBe(enhanceYourCalm);
  });
});

describe("what is allowed", () => {
  test("padding, a priority, a continued head and trailers belong to a request", async () => {
    await using client = await open();
    const block = headOf("/echo", field("te", "trailers"));
    const head = Buffer.concat([
      Buffer.from([3]),
      Buffer.alloc(5),
      block.subarray(0, 9),
      Buffer.alloc(3),
    ]);

    client.send(
      frame(types.headers, padded | priority, 1, head),
      frame(types.continuation, 0, 1),
      frame(types.continuation, endHeaders, 1, block.subarray(9)),
      frame(types.data, padded, 1, Buffer.from([2, 0x61, 0x62, 0, 0])),
      frame(types.data, 0, 1, Buffer.from("cd")),
      frame(types.headers, whole, 1, field("checksum", "1")),
    );

    await expect.poll(() => client.bodyOf(1).toString()).toBe("abcd");
    expect(client.goawayCode()).toBeUndefined();
  });

  test("frames of unknown types, priorities, and settings nobody knows are passed over", async () => {
    await using client = await open();

    client.send(
      frame(0x42, 0xff, 7, Buffer.from("what")),
      frame(2, 0, 9, Buffer.alloc(5)),
      setting(0x77, 1),
      frame(types.headers, whole, 1, headOf("/echo")),
    );

    await expect.poll(() => client.frames.some(({ stream }) => stream === 1)).toBe(true);
    expect(client.goawayCode()).toBeUndefined();
  });

  test("every byte may come by itself", async () => {
    await using client = await open();
    const sent = Buffer.concat([
      frame(types.headers, endHeaders, 1, headOf("/echo")),
      frame(types.data, endStream, 1, Buffer.from("slow")),
    ]);

    // Else the client's own acknowledgement of settings would come in between.
    const settled = () => client.frames.filter(({ type }) => type === types.settings);
    await expect.poll(settled).toHaveLength(2);
    for (const byte of sent) {
      client.send(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }

    await expect.poll(() => client.bodyOf(1).toString()).toBe("slow");
  });
});

describe("flow control", () => {
  const body = Buffer.alloc(40_000, "abcdefg");

  /** Send a body to have it back. */
  function echoFrames(id: number): Buffer[] {
    return [
      frame(types.headers, endHeaders, id, headOf("/echo")),
      ...[0, 16_000, 32_000].map((from) =>
        frame(types.data, from === 32_000 ? endStream : 0, id, body.subarray(from, from + 16_000)),
      ),
    ];
  }

  test("a reply waits for the window of its stream, whichever way it grows", async () => {
    await using client = await open();
    client.send(setting(4, 10), ...echoFrames(1));
    await expect.poll(() => client.bodyOf(1).length).toBe(10);

    client.send(frame(types.windowUpdate, 0, 1, number(5)));
    await expect.poll(() => client.bodyOf(1).length).toBe(15);

    // The first window shrinks to nothing: what was sent already counts, so that 20 make 5 more.
    client.send(setting(4, 0), setting(4, 15), frame(types.windowUpdate, 0, 1, number(5)));
    await expect.poll(() => client.bodyOf(1).length).toBe(25);

    client.send(setting(4, 100_000));
    await expect.poll(() => client.bodyOf(1).equals(body)).toBe(true);
  });

  test("replies share the window of the connection, and go on when it grows", async () => {
    await using client = await open();
    client.send(...echoFrames(1), ...echoFrames(3));
    const size = () => client.bodyOf(1).length + client.bodyOf(3).length;
    await expect.poll(size).toBe(65_535);

    client.send(frame(types.windowUpdate, 0, 0, number(20_000)));

    await expect
      .poll(() => client.bodyOf(1).equals(body) && client.bodyOf(3).equals(body))
      .toBe(true);
  });

  test("a window of a stream that grows too large resets the stream", async () => {
    await using client = await open();

    client.send(
      frame(types.headers, whole, 1, headOf("/silent")),
      frame(types.windowUpdate, 0, 1, number(2 ** 31 - 1)),
    );

    await expect.poll(() => client.resetCode(1)).toBe(flowControlError);
  });

  test("more than the windows take ends the connection", async () => {
    await using client = await open();
    client.send(frame(types.headers, endHeaders, 1, headOf("/silent")));
    const part = frame(types.data, 0, 1, Buffer.alloc(16_384));

    client.send(...Array.from({ length: 65 }, () => part));
    await client.closed;

    expect(client.goawayCode()).toBe(flowControlError);
  });

  test("what was read, dropped, reset or left alone makes room for more", async () => {
    await using client = await open();
    const part = Buffer.alloc(16_384);
    // Eight times what the connection takes at once, by turns in streams that are read, not read, and reset.
    for (let id = 1; id < 2 * 128; id += 2) {
      const path = id % 4 === 1 ? "/echo" : "/silent";
      client.send(
        frame(types.headers, endHeaders, id, headOf(path)),
        ...Array.from({ length: 4 }, () => frame(types.data, 0, id, part)),
        frame(types.reset, 0, id, number(8)),
      );
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    // Whole ones that nobody looks at.
    for (let id = 257; id < 257 + 2 * 32; id += 2) {
      const parts = Array.from({ length: 3 }, () => frame(types.data, 0, id, part));
      client.send(
        frame(types.headers, endHeaders, id, headOf("/ignore")),
        ...parts,
        frame(types.data, endStream, id, part),
      );
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    client.send(
      frame(types.headers, endHeaders, 401, headOf("/echo")),
      frame(types.data, endStream, 401, Buffer.from("still")),
    );

    await expect.poll(() => client.bodyOf(401).toString()).toBe("still");
  });
});

describe("limits", () => {
  test("streams beyond the number allowed are refused, and after a hundred the connection ends", async () => {
    await using client = await open();
    for (let index = 0; index < 101; index++) {
      client.send(frame(types.headers, endHeaders, 2 * index + 1, headOf("/silent")));
    }
    await expect.poll(() => client.resetCode(201)).toBe(errorCodes.refusedStream);
    expect(client.resetCode(199)).toBeUndefined();

    for (let index = 101; index < 202; index++) {
      client.send(frame(types.headers, endHeaders, 2 * index + 1, headOf("/silent")));
    }
    await client.closed;

    expect(client.goawayCode()).toBe(enhanceYourCalm);
  });

  test.for([
    ["malformed requests", (id: number) => frame(types.headers, whole, id, field("A", "b"))],
    [
      "windows of nothing",
      (id: number) =>
        Buffer.concat([
          frame(types.headers, endHeaders, id, headOf("/silent")),
          frame(types.windowUpdate, 0, id, number(0)),
        ]),
    ],
    [
      "empty data",
      (id: number) =>
        id === 1 ? frame(types.headers, endHeaders, 1, headOf("/silent")) : frame(types.data, 0, 1),
    ],
    ["frames of unknown types", () => frame(0x42, 0, 0)],
  ] as const)("%s without end close the connection", async ([, one]) => {
    await using client = await open();

    const sent = await client.flood((index) => one(2 * index + 1), 20_000);

    expect(sent).toBeLessThan(20_000);
  });

  test("of a client that reads nothing no more is read, until it does", async () => {
    await using client = await open();
    client.socket.pause();
    client.send(frame(types.windowUpdate, 0, 0, number(2 ** 30)));
    const large = field("x-request-id", "r".repeat(120));
    let sent = 0;
    const finished = () => client.at.finished.length;
    const isServed = async () => {
      for (let tries = 0; tries < 200 && finished() < sent; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      return finished() === sent;
    };

    do {
      for (let index = 0; index < 90; index++, sent++) {
        client.send(frame(types.headers, whole, 2 * sent + 1, headOf("/nowhere", large)));
      }
    } while (sent < 200_000 && (await isServed()));
    const served = finished();
    client.socket.resume();

    expect(served).toBeLessThan(sent);
    await expect.poll(finished).toBe(sent);
    expect(client.goawayCode()).toBeUndefined();
  });
});

test("a client that says it leaves gets its reply, and the connection ends", async () => {
  await using client = await open();
  client.send(
    frame(types.headers, whole, 1, headOf("/silent")),
    frame(types.goaway, 0, 0, Buffer.alloc(8)),
  );
  await expect.poll(() => client.goawayCode()).toBe(errorCodes.noError);

  client.tell();
  await client.closed;

  expect(client.bodyOf(1).toString()).toBe("late");
});
