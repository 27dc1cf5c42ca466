import { connectAll, readAnswers } from "../http1.ts";

/** What came of a run. */
export interface Outcome {
  calls: number;
  seconds: number;
  /** In milliseconds. */
  p50Ms: number;
  p99Ms: number;
}

/**
 * Send requests over bare sockets, one at a time on each, as fast as they are answered: what loads the server must
 * cost little beside it. Throws at an answer that is not 200.
 */
export async function runHttp1Calls(
  {
    port,
    path,
    headers,
    bodies,
  }: {
    port: number;
    path: string;
    headers: readonly (readonly [name: string, value: string])[];
    bodies: readonly Buffer[];
  },
  { seconds, connections }: { seconds: number; connections: number },
): Promise<Outcome> {
  const head = [
    `POST ${path} HTTP/1.1`,
    `host: 127.0.0.1:${port}`,
    ...headers.map(([name, value]) => `${name}: ${value}`),
    "content-length: ",
  ].join("\r\n");
  // Made before the first is sent: what the client drops on the way it has to collect, and all calls wait meanwhile.
  const requests = bodies.map((body) =>
    Buffer.concat([Buffer.from(`${head}${body.length}\r\n\r\n`), body]),
  );
  const sockets = await connectAll(port, connections);
  const latencies: number[] = [];
  const begun = performance.now();
  let next = 0;
  await Promise.all(
    sockets.map(async (socket) => {
      const answers = readAnswers(socket);
      for (;;) {
        const request = requests[next++];
        const sentMs = performance.now();
        if (request === undefined || sentMs - begun >= seconds * 1_000) {
          break;
        }
        socket.write(request);
        const status = await answers.next();
        if (status !== 200) {
          throw new Error(`Cannot measure: the answer is ${status}`);
        }
        latencies.push(performance.now() - sentMs);
      }
      socket.destroy();
    }),
  );
  const sorted = Float64Array.from(latencies).sort();
  const at = (part: number) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
  return {
    calls: latencies.length,
    seconds: (performance.now() - begun) / 1_000,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
  };
}
