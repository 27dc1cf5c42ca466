// Fastify's proxy in a process of its own: `fastify.ts UPSTREAM` prints its address.
import httpProxy from "@fastify/http-proxy";
import fastify from "fastify";

const [upstream = ""] = process.argv.slice(2);
const app = fastify({ logger: false });
await app.register(httpProxy, { upstream, undici: { connections: 64 } });
console.log(await app.listen({ host: "127.0.0.1", port: 0 }));
// The bench holds the other end, also when it dies.
process.stdin.on("end", () => process.exit());
process.stdin.resume();
