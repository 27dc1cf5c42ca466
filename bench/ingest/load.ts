// The load of the bench in a process of its own: `load.ts JOB`, with the job as JSON. Prints the outcome as JSON.
import { type ClientHttp2Session, connect } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";
import { fromBinary } from "@bufbuild/protobuf";
import { RecordUsageResponseSchema } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import type { Market } from "../../test/support/load-events.ts";
import { runCalls } from "../keys/http2-load.ts";
import { type Lot, makeEvents, toMessages } from "./events.ts";
import { runHttp1Calls } from "./http1-load.ts";

/** What to send, to whom. */
export interface Job {
  port: number;
  market: Market;
  lot: Lot;
  /** Events in a call. */
  batch: number;
  /** Calls at once. */
  inFlight: number;
  /** Events a second. Zero: as fast as they are acknowledged. */
  rate: number;
  /** Single events end then, sent or not. */
  seconds?: number;
  /** How single events are sent. gRPC unless it is said. */
  protocol?: "grpc" | "connect";
}

/** What came of it. */
export interface Outcome {
  events: number;
  /** From the first call until the last answer. */
  seconds: number;
  /** Of a call, in milliseconds; paced ones from when they were due. */
  p50Ms: number;
  p99Ms: number;
  /** When the first call was sent. */
  beginMs: number;
  /** For each call, where in the journal its last event stands, and when that was known. */
  acknowledged: [position: number, atMs: number][];
}

const path = "/callora.metering.v1.MeteringService/RecordUsage";

if (import.meta.main) {
  const job: Job = JSON.parse(process.argv[2] ?? "");
  const messages = toMessages(makeEvents(job.market, job.lot), job.batch);
  const outcome =
    job.batch === 1 ? await sendSingles(job, messages) : await sendBatches(job, messages);
  console.log(JSON.stringify(outcome));
  process.exit(0);
}

/** Small calls, over bare sockets: the client is to cost little beside the server. */
async function sendSingles(
  { port, market, inFlight, seconds: most = 60, protocol = "grpc" }: Job,
  messages: Buffer[],
): Promise<Outcome> {
  const beginMs = Date.now();
  if (protocol === "connect") {
    const headers = [
      ["content-type", "application/proto"],
      ["connect-protocol-version", "1"],
      ["authorization", `Bearer ${market.token}`],
    ] as const;
    // Connect has no frame around the one message.
    const bodies = messages.map((message) => message.subarray(5));
    const extent = { seconds: most, connections: inFlight };
    const { calls, ...rest } = await runHttp1Calls({ port, path, headers, bodies }, extent);
    return { events: calls, ...rest, beginMs, acknowledged: [] };
  }
  const outcome = await runCalls(
    {
      port,
      path,
      headers: [
        ["content-type", "application/grpc"],
        ["te", "trailers"],
        ["authorization", `Bearer ${market.token}`],
      ],
      messages,
    },
    { calls: messages.length, seconds: most, rate: 0, streams: inFlight / 4 },
  );
  if (outcome.failed > 0) {
    throw new Error(`Cannot measure: ${outcome.failed} calls of ${outcome.calls} failed`);
  }
  const { calls: events, seconds, p50Ms, p99Ms } = outcome;
  return { events, seconds, p50Ms, p99Ms, beginMs, acknowledged: [] };
}

/** Large calls need flow control, so they go over node:http2. */
async function sendBatches(job: Job, messages: Buffer[]): Promise<Outcome> {
  const session = connect(`http://127.0.0.1:${job.port}`);
  const headers = {
    ":method": "POST",
    ":path": path,
    "content-type": "application/grpc",
    te: "trailers",
    authorization: `Bearer ${job.market.token}`,
  };
  const [begin, beginMs] = [performance.now(), Date.now()];
  const latencies: number[] = [];
  const acknowledged: Outcome["acknowledged"] = [];
  let next = 0;
  async function work(): Promise<void> {
    for (;;) {
      const index = next++;
      const message = messages[index];
      if (message === undefined) {
        return;
      }
      const dueMs =
        job.rate === 0 ? performance.now() : begin + (index * job.batch * 1000) / job.rate;
      if (dueMs > performance.now()) {
        await sleep(dueMs - performance.now());
      }
      const position = await call(session, headers, message);
      acknowledged.push([position, Date.now()]);
      latencies.push(performance.now() - dueMs);
    }
  }
  await Promise.all(Array.from({ length: job.inFlight }, work));
  const seconds = (performance.now() - begin) / 1000;
  session.destroy();
  const sorted = Float64Array.from(latencies).sort();
  const at = (part: number) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
  return { events: job.lot.count, seconds, p50Ms: at(0.5), p99Ms: at(0.99), beginMs, acknowledged };
}

/** Resolves to the position of the last event. */
function call(
  session: ClientHttp2Session,
  headers: Record<string, string>,
  message: Buffer,
): Promise<number> {
  const stream = session.request(headers);
  const chunks: Buffer[] = [];
  let status = "";
  return new Promise((resolve, reject) => {
    stream.on("response", (head) => {
      status = String(head["grpc-status"] ?? head[":status"]);
    });
    stream.on("trailers", (trailers) => {
      status = `${trailers["grpc-status"]} ${trailers["grpc-message"] ?? ""}`;
    });
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", reject);
    stream.on("end", () => {
      if (!status.startsWith("0 ")) {
        reject(new Error(`Cannot measure: RecordUsage answered ${status}`));
        return;
      }
      const body = Buffer.concat(chunks).subarray(5);
      resolve(Number(fromBinary(RecordUsageResponseSchema, body).position));
    });
    stream.end(message);
  });
}
