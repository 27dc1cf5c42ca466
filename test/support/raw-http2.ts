import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

/** An HTTP/2 client that sends any frames, and reads those that come back. */
export async function connectRaw(port: number, tls?: { ca: string }) {
  const socket: Socket =
    tls === undefined
      ? connect({ port, host: "127.0.0.1", noDelay: true })
      : connectTls({ port, host: "127.0.0.1", ALPNProtocols: ["h2"], ...tls });
  socket.on("error", () => {});
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  await once(socket, tls === undefined ? "connect" : "secureConnect");
  socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  socket.write(frame(types.settings, 0, 0));
  const frames: { type: number; stream: number; payload: Buffer }[] = [];
  let rest: Buffer = Buffer.alloc(0);
  socket.on("data", (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk]);
    while (rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
      const end = 9 + rest.readUIntBE(0, 3);
      const payload = rest.subarray(9, end);
      frames.push({ type: rest[3] ?? 0, stream: rest.readUInt32BE(5), payload });
      if (rest[3] === types.settings && rest[4] === 0) {
        socket.write(frame(types.settings, 1, 0));
      }
      rest = rest.subarray(end);
    }
  });
  return {
    socket,
    closed,
    /** What came back so far. */
    frames,
    /** The error code of the GOAWAY that came back. */
    goawayCode: () => frames.findLast(({ type }) => type === types.goaway)?.payload.readUInt32BE(4),
    /**
     * Send chunks until the server closes, resolves to how many there were. Throws when it lets
     * `countMax` pass.
     */
    async flood(chunkOf: (index: number) => Buffer, countMax: number): Promise<number> {
      for (let index = 0; index < countMax; index++) {
        if (socket.destroyed || !socket.writable) {
          return index;
        }
        if (!socket.write(chunkOf(index))) {
          await new Promise<void>((resolve) => {
            socket.once("drain", resolve);
            socket.once("close", () => resolve());
          });
        }
        if (index % 50 === 0) {
          await new Promise((resolve) => setImmediate(resolve));
        }
      }
      throw new Error(`Cannot make the server close: it took ${countMax}`);
    },
  };
}

/** The types of frames. */
export const types = {
  data: 0,
  headers: 1,
  reset: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

/** One frame. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array = new Uint8Array(),
): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** `GET / HTTP/2` of the authority "a", as a header block. */
export const getBlock = Buffer.from([0x82, 0x86, 0x84, 0x41, 1, 0x61]);
