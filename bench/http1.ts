import { once } from "node:events";
import { connect, type Socket } from "node:net";

/** Open connections to a server of this machine. */
export function connectAll(port: number, count: number): Promise<Socket[]> {
  return Promise.all(
    Array.from({ length: count }, async () => {
      const socket = connect(port, "127.0.0.1").setNoDelay();
      await once(socket, "connect");
      return socket;
    }),
  );
}

/** The statuses of answers whose length is said, one after the other. */
export function readAnswers(socket: Socket) {
  let waiting: PromiseWithResolvers<number> | undefined;
  let text = "";
  socket.setEncoding("latin1");
  socket.on("data", (chunk: string) => {
    text += chunk;
    const headEnd = text.indexOf("\r\n\r\n");
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(text)?.[1] ?? 0);
    if (headEnd !== -1 && text.length >= headEnd + 4 + length) {
      const status = Number(text.slice(9, 12));
      text = text.slice(headEnd + 4 + length);
      waiting?.resolve(status);
    }
  });
  socket.on("error", (error) => waiting?.reject(error));
  socket.on("close", () => waiting?.reject(new Error("Cannot measure: the server hung up")));
  return {
    next() {
      waiting = Promise.withResolvers<number>();
      return waiting.promise;
    },
  };
}
