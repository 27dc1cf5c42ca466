import { onTestFinished } from "vitest";
import { WebSocket } from "ws";

/** A WebSocket, with what came over it. */
export interface Opened {
  socket: WebSocket;
  texts: string[];
  /** What the connection ended with: a close code, or the status of the refusal. */
  ended: Promise<{ code: number; reason: string }>;
}

/** Open a WebSocket that is dropped when the test ends. */
export function open(
  url: string,
  protocols: string[] = [],
  options: WebSocket.ClientOptions = {},
): Opened {
  const socket = new WebSocket(url.replace(/^http/, "ws"), protocols, options);
  onTestFinished(() => socket.terminate());
  const texts: string[] = [];
  socket.on("message", (data) => texts.push(String(data)));
  socket.on("error", () => {});
  const ended = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.on("close", (code, reason) => resolve({ code, reason: String(reason) }));
    socket.on("unexpected-response", (_request, reply) => {
      const chunks: string[] = [];
      reply.setEncoding("utf8").on("data", (text: string) => chunks.push(text));
      reply.on("end", () => resolve({ code: reply.statusCode ?? 0, reason: chunks.join("") }));
    });
  });
  return { socket, texts, ended };
}

/** Listens until its signal says that nobody does. Tells what it sees. */
export function endless() {
  const left = Promise.withResolvers<unknown>();
  return {
    left: left.promise,
    async *listen(_request: unknown, { signal }: { signal: AbortSignal }) {
      yield { word: "begun" };
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
      left.resolve(signal.reason);
      throw signal.reason;
    },
  };
}
