import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Figure } from "../figure.ts";
import { longBytes } from "./nginx.ts";
import type { StreamJob, StreamOutcome } from "./streams.ts";
import { peakMb, watchMemory } from "./usage.ts";
import type { GatewayWorld } from "./world.ts";

/** How fast all streams together are read while it is slow, and for how long. */
const slowly = { bytesPerSecond: 20_000_000, ms: 5_000 };

/**
 * The most memory that a server takes which nothing was asked of before, while many streams of 10 MB are read at once:
 * slowly at first, so that each waits for its reader, then to the end as fast as it goes.
 */
export async function measureMemory(world: GatewayWorld, streams: number): Promise<Figure> {
  await using server = await world.startServer();
  const consumer = await world.makeConsumer(server);
  const target = world.target(server, "durable", consumer, "long");
  const idle = await watchMemory(server.pid);
  const { whole } = await readStreams({ ...target, streams, bytes: longBytes, slowly });
  if (whole !== streams) {
    throw new Error(`Cannot measure memory: ${streams - whole} of ${streams} streams broke off`);
  }
  return {
    name: `memory with ${streams} streams of ${longBytes / 1_000_000} MB at once, most`,
    value: await peakMb(server.pid),
    unit: "MB",
    peer: "before the first",
    peerValue: idle,
    bar: { of: "value", limit: "at most", at: 300 },
    n: 1,
  };
}

async function readStreams(job: StreamJob): Promise<StreamOutcome> {
  const script = fileURLToPath(new URL("streams.ts", import.meta.url));
  const args = [script, JSON.stringify(job)];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await Promise.race([
    once(createInterface({ input: child.stdout }), "line"),
    once(child, "exit").then(() => {
      throw new Error("Cannot measure memory: the reader of the streams has ended");
    }),
  ]);
  return JSON.parse(String(line));
}
