import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** The developer's own server, which the gateway calls. */
export interface Upstream extends AsyncDisposable {
  url: string;
  /** Requests that reached it. */
  requests(): number;
}

/** The path that the upstream always fails on. */
export const brokenPath = "/v1/broken";

/** The path that the upstream answers. */
export const quotePath = "/v1/quotes";

/** Start it on loopback. It answers everything with JSON, and fails the broken path with 500. */
export async function startUpstream(): Promise<Upstream> {
  let count = 0;
  const server = createServer((request, response) => {
    count += 1;
    const path = request.url?.split("?")[0];
    response.statusCode = path === brokenPath ? 500 : 200;
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ path, ok: response.statusCode === 200 }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    requests: () => count,
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
