import { executionAsyncResource } from "node:async_hooks";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** One of what nextTick() queues: kept, and never looked at. */
const queued: object[] = [];

/**
 * Give back to the system what loading the program left behind: some 80 MB, in about 0.1 s.
 *
 * V8 keeps that memory for growth that an idle server never has. Call it once, before the first request.
 */
export function releaseMemory(): void {
  keepShapes();
  setFlagsFromString("--expose-gc");
  const collect: unknown = runInNewContext("gc");
  setFlagsFromString("--no-expose-gc");
  if (typeof collect === "function") {
    collect({ type: "major", execution: "sync", flavor: "last-resort" });
  }
}

/**
 * Keep alive what V8 must not forget. A collection that is to save memory drops the shapes of objects of which there are
 * none. To nextTick() every object that it queues has another shape from then on, and it makes each in a way that takes
 * eight times as long: some microseconds of every request.
 */
function keepShapes(): void {
  process.nextTick(() => {
    queued.push(executionAsyncResource());
  });
}
