import type { Socket } from "node:net";

/** What the first bytes of a connection show it to speak. */
export type Spoken = "tls" | "http2" | "http1";

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const tlsHandshake = 0x16;

/** Read until it is clear what a connection speaks, and put back what was read. */
export function sniff(socket: Socket, timeoutMs: number, decide: (spoken: Spoken) => void): void {
  let seen: Buffer = Buffer.alloc(0);
  const timer = setTimeout(() => socket.destroy(), timeoutMs);
  const destroy = () => socket.destroy();
  const stop = () => {
    clearTimeout(timer);
    socket.off("readable", read);
    socket.off("end", destroy);
    socket.off("close", stop);
  };
  const read = () => {
    const chunk: Buffer | null = socket.read();
    if (chunk === null) {
      return;
    }
    seen = seen.length === 0 ? chunk : Buffer.concat([seen, chunk]);
    const spoken = spokenIn(seen);
    if (spoken === undefined) {
      return;
    }
    stop();
    socket.off("error", destroy);
    socket.unshift(seen);
    decide(spoken);
  };
  socket.on("error", destroy);
  socket.on("end", destroy);
  socket.on("close", stop);
  socket.on("readable", read);
}

/** Undefined while it may still become the preface of HTTP/2. */
function spokenIn(seen: Buffer): Spoken | undefined {
  if (seen[0] === tlsHandshake) {
    return "tls";
  }
  const compared = Math.min(seen.length, preface.length);
  if (preface.compare(seen, 0, compared, 0, compared) !== 0) {
    return "http1";
  }
  return compared < preface.length ? undefined : "http2";
}
