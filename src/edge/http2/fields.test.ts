import { once } from "node:events";
import { connect } from "node:http2";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startEdge } from "../../../test/support/edge.ts";
import { openPolicy } from "../../rpc/policy.ts";
import type { RawMount } from "../mount.ts";

// Node's own HTTP/2 writes the requests and reads the replies: names, values, tables and codes must mean the same to it.

const name = fc.stringMatching(/^x-[!#$%&'*+.^_`|~0-9a-z-]{0,20}$/);
const value = fc.oneof(
  fc.constantFrom("", "a", "trailers", "gzip, br", "0".repeat(200), "é\u00ff~"),
  fc.stringMatching(/^[!-~]([ -~]{0,80}[!-~])?$/),
);
const field = fc.tuple(name, value);

/** Sends back the headers of these names, as they were understood. */
let at: Awaited<ReturnType<typeof startEdge>>;
let session: ReturnType<typeof connect>;

beforeAll(async () => {
  at = await startEdge({
    mounts: [
      {
        method: "GET",
        pattern: "/fields",
        policy: openPolicy,
        raw(arrival) {
          const own: string[] = [];
          for (let index = 0; index < arrival.rawHeaders.length; index += 2) {
            const text = arrival.rawHeaders[index] ?? "";
            if (text.startsWith("x-")) {
              own.push(`reply-${text}`, arrival.rawHeaders[index + 1] ?? "");
            }
          }
          arrival.reply(200, own, undefined);
        },
        onShutdown() {},
      } satisfies RawMount,
    ],
  });
  session = connect(at.url);
});
afterAll(async () => {
  session.close();
  await at[Symbol.asyncDispose]();
});

test("any fields come and go as they are", async () => {
  const property = fc.asyncProperty(fc.array(field, { maxLength: 30 }), async (fields) => {
    const headers: Record<string, string> = { ":path": "/fields" };
    for (const [name, value] of fields) {
      headers[name] = value;
    }
    const stream = session.request(headers);
    const [reply] = await once(stream.resume(), "response");
    await once(stream, "close");

    const { ":path": _path, ...own } = headers;
    const echoed = Object.entries(reply as Record<string, string>)
      .filter(([text]) => text.startsWith("reply-x-"))
      .map(([text, echo]) => [text.slice("reply-".length), echo]);
    expect(Object.fromEntries(echoed)).toEqual(own);
  });
  await fc.assert(property, { numRuns: 300 });
});

test("a reply's head may be larger than a frame", async () => {
  const headers: Record<string, string> = { ":path": "/fields" };
  for (let index = 0; index < 7; index++) {
    headers[`x-large-${index}`] = String(index).repeat(4_000);
  }
  const stream = session.request(headers);

  const [reply] = await once(stream.resume(), "response");

  expect(reply["reply-x-large-6"]).toBe("6".repeat(4_000));
});
