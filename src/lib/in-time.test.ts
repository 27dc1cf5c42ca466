import { once } from "node:events";
import { expect, test } from "vitest";
import { inTime, LateError } from "./in-time.ts";

const never = new Promise<never>(() => {});

test("work that takes too long is given up, by name", async () => {
  const late = inTime(never, { ms: 5, what: "the database" });

  await expect(late).rejects.toThrow(LateError);
  await expect(late).rejects.toThrow("Cannot wait for the database: it took more than 5 ms");
});

test("what came while the process was busy came in time", async () => {
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const { port1, port2 } = new MessageChannel();

  // After an immediate timers come first, and whatever else has come meanwhile comes after them.
  setImmediate(() => {
    resolve(inTime(once(port1, "message"), { ms: 20, what: "a message" }));
    port2.postMessage("it came");
    const endMs = performance.now() + 50;
    while (performance.now() < endMs) {}
  });

  expect(await promise).toEqual(["it came"]);
  port1.close();
});
