// One server of the bench in a process of its own: `serve.ts NAME` prints its port.
import { startEdgeServer } from "./edge-server.ts";
import * as peers from "./peers.ts";

/** Each resolves to the port that it listens on. */
const servers: Readonly<Record<string, () => Promise<number>>> = {
  edge: () => startEdgeServer({ steps: "none" }),
  "edge-rest": () => startEdgeServer({ steps: "none" }),
  "edge-connect": () => startEdgeServer({ steps: "none" }),
  "edge-grpc": () => startEdgeServer({ steps: "none" }),
  "edge-full": () => startEdgeServer({ steps: "all" }),
  raw: peers.startRaw,
  "raw-http2": peers.startRawHttp2,
  fastify: peers.startFastify,
  "connect-http1": peers.startConnectHttp1,
  "connect-http2": peers.startConnectHttp2,
  "grpc-js": peers.startGrpcJs,
};

const name = process.argv[2] ?? "";
const start = servers[name];
if (start === undefined) {
  throw new Error(`Cannot serve "${name}": there are ${Object.keys(servers).join(", ")}`);
}
console.log(await start());
// The bench holds the other end, also when it dies.
process.stdin.on("end", () => process.exit());
process.stdin.resume();
