import { once } from "node:events";
import { type AddressInfo, createServer, Socket } from "node:net";

/** A way to a server that can lose everything without a word, as a network does. */
export interface BlackHole {
  /** An address of the server, by this way. */
  through(url: string): string;
  /** From now on nothing arrives, in either direction; whoever connects hears nothing. */
  swallow(): void;
  /** From now on everything arrives, what was swallowed first: TCP sends it again. */
  release(): void;
  /** From now on everything of new connections arrives, and nothing more of those that there are: not even their end. */
  forget(): void;
  /** How many connections there were. */
  readonly connections: number;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Open a way to the server of an address. `alter` may change what clients send. */
export async function openBlackHole(
  serverUrl: string,
  alter: (chunk: Buffer) => Buffer = (chunk) => chunk,
): Promise<BlackHole> {
  const { hostname, port } = new URL(serverUrl);
  const sockets = new Set<Socket>();
  let isSwallowing = false;
  let held: (() => void)[] = [];
  let connections = 0;
  const forgotten = new WeakSet<Socket>();

  function pass(from: Socket, step: () => void) {
    if (forgotten.has(from)) {
      return;
    }
    if (isSwallowing) {
      held.push(step);
    } else {
      step();
    }
  }

  function join(from: Socket, to: Socket, change: (chunk: Buffer) => Buffer) {
    sockets.add(from);
    from.on("data", (chunk: Buffer) => pass(from, () => to.write(change(chunk))));
    from.on("error", () => {});
    from.on("close", () => {
      sockets.delete(from);
      pass(from, () => to.destroy());
    });
  }

  const server = createServer((client) => {
    connections += 1;
    const upstream = new Socket();
    join(client, upstream, alter);
    join(upstream, client, (chunk) => chunk);
    pass(client, () => upstream.connect(Number(port), hostname));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address() as AddressInfo;
  return {
    through: (url) => Object.assign(new URL(url), { host: `127.0.0.1:${address.port}` }).href,
    swallow() {
      isSwallowing = true;
    },
    release() {
      isSwallowing = false;
      const steps = held;
      held = [];
      for (const step of steps) {
        step();
      }
    },
    forget() {
      isSwallowing = false;
      held = [];
      for (const socket of sockets) {
        forgotten.add(socket);
      }
    },
    get connections() {
      return connections;
    },
    async [Symbol.asyncDispose]() {
      server.close();
      for (const socket of sockets) {
        socket.destroy();
      }
      await once(server, "close");
    },
  };
}
