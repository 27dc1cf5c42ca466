import type { ServerHttp2Session } from "node:http2";

/** PING and SETTINGS frames in a row before a session is ended, and how many a second it regains. */
const framesMax = 100;
const framesPerSecond = 10;

/** Bytes beyond the answers to such frames that count as a reply. */
const replyBytesMin = 64;

/** Bytes of the answer to a PING. That to SETTINGS is shorter. */
const answerBytesMax = 17;

const enhanceYourCalm = 0xb;

/**
 * End a session whose client sends PING or SETTINGS frames without end: each costs an answer, and
 * HTTP/2 itself sets no limit. Frames between which replies were sent do not count, since clients
 * measure their bandwidth with such PINGs.
 */
export function limitControlFrames(session: ServerHttp2Session): void {
  let left = framesMax;
  let lastMs = performance.now();
  let answerBytes = 0;
  let replyBytes = 0;
  const onFrame = () => {
    if (session.destroyed) {
      return;
    }
    const nowMs = performance.now();
    left = Math.min(framesMax, left + ((nowMs - lastMs) * framesPerSecond) / 1000) - 1;
    lastMs = nowMs;
    // Answers are written after they are counted, so that this is never too much.
    answerBytes += answerBytesMax;
    const written = session.socket.bytesWritten - answerBytes;
    if (written - replyBytes > replyBytesMin) {
      replyBytes = written;
      left = framesMax;
    }
    if (left < 0) {
      session.goaway(enhanceYourCalm, 0, Buffer.from("too_many_pings"));
      session.destroy(new Error("Cannot go on: too many PING frames"), enhanceYourCalm);
    }
  };
  session.on("ping", onFrame);
  session.on("remoteSettings", onFrame);
}
