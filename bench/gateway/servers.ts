import httpProxy from "@fastify/http-proxy";
import fastify from "fastify";

/** Start Fastify's proxy on a free port of this host: what ours is measured against. */
export async function startFastifyProxy(upstream: string) {
  const app = fastify({ logger: false });
  await app.register(httpProxy, { upstream, undici: { connections: 64 } });
  return { url: await app.listen({ port: 0 }), close: () => app.close() };
}
