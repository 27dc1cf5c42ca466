// Reads many replies at once, in a process of its own: `streams.ts JOB`, with the job as JSON. Prints the outcome.
import { Agent, get, type IncomingMessage } from "node:http";

/** What to read. */
export interface StreamJob {
  url: string;
  secret: string;
  streams: number;
  /** Of each reply. */
  bytes: number;
  /** All together are read at this rate for a while. */
  slowly: { bytesPerSecond: number; ms: number };
}

/** What came of it. */
export interface StreamOutcome {
  /** Replies that came to their right end. */
  whole: number;
}

if (import.meta.main) {
  const job: StreamJob = JSON.parse(process.argv[2] ?? "");
  console.log(JSON.stringify(await readAll(job)));
  process.exit();
}

async function readAll(job: StreamJob): Promise<StreamOutcome> {
  const agent = new Agent({ keepAlive: false });
  const replies = await Promise.all(Array.from({ length: job.streams }, () => begin(job, agent)));
  const endMs = performance.now() + job.slowly.ms;
  // Each of them in its turn, so that all are under way all the time.
  const turnMs = 50;
  const share = (job.slowly.bytesPerSecond * turnMs) / 1_000 / job.streams;
  while (performance.now() < endMs) {
    const wanted = new Promise((resolve) => setTimeout(resolve, turnMs));
    for (const reply of replies) {
      reply.read(share);
    }
    await wanted;
  }
  const whole = await Promise.all(replies.map((reply) => reply.readToEnd()));
  return { whole: whole.filter((isWhole) => isWhole).length };
}

interface Reply {
  /** Read about so many bytes more, of those that are there. */
  read(bytes: number): void;
  /** Whether it has ended as it should. */
  readToEnd(): Promise<boolean>;
}

function begin({ url, secret, bytes }: StreamJob, agent: Agent): Promise<Reply> {
  const { promise, resolve, reject } = Promise.withResolvers<Reply>();
  const request = get(url, { agent, headers: { "x-api-key": secret } }, (response) => {
    if (response.statusCode !== 200) {
      reject(new Error(`Cannot read a stream: its status is ${response.statusCode}`));
      return;
    }
    resolve(replyOf(response, bytes));
  });
  request.on("error", reject);
  return promise;
}

function replyOf(response: IncomingMessage, bytes: number): Reply {
  let received = 0;
  let allowance = 0;
  const ended = new Promise<boolean>((resolve) => {
    response.on("error", () => {});
    response.on("close", () => resolve(response.complete && received === bytes));
  });
  response.pause();
  response.on("data", (chunk: Buffer) => {
    received += chunk.length;
    allowance -= chunk.length;
    if (allowance <= 0) {
      response.pause();
    }
  });
  response.pause();
  return {
    read(count) {
      allowance += count;
      if (allowance > 0) {
        response.resume();
      }
    },
    readToEnd() {
      allowance = Number.POSITIVE_INFINITY;
      response.resume();
      return ended;
    },
  };
}
