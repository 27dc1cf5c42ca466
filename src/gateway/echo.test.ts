import { expect, test } from "vitest";
import { echoReply } from "./echo.ts";

const call = { method: "POST", path: "/a/b", query: "x=1", headers: [], body: null };

function echoed(change: Partial<Parameters<typeof echoReply>[0]>) {
  const { status, headers, body } = echoReply({ ...call, ...change });
  expect({ status, headers }).toEqual({
    status: 200,
    headers: { "content-type": "application/json" },
  });
  return JSON.parse(body.toString());
}

test("an echo is what an upstream would have got", () => {
  const headers = ["Accept", "text/plain", "x-a", "1", "X-A", "2", "__proto__", "3"];

  expect(echoed({ headers, body: Buffer.from("grüße") })).toEqual({
    echo: true,
    method: "POST",
    path: "/a/b",
    query: "x=1",
    headers: JSON.parse('{"accept":"text/plain","x-a":"1, 2","__proto__":"3"}'),
    body: "grüße",
    encoding: "text",
    bodyBytes: 7,
  });
});

test("a body that is no text comes back in Base64, none as an empty text", () => {
  expect(echoed({ body: Buffer.from([0xff, 0]) })).toMatchObject({
    body: "/wA=",
    encoding: "base64",
  });
  expect(echoed({})).toMatchObject({ body: "", encoding: "text", bodyBytes: 0 });
});

test("of a long body 64 KiB come back", () => {
  const shown = echoed({ body: Buffer.alloc(1_000_000, "a") });

  expect(shown.body).toHaveLength(65_536);
  expect(shown.bodyBytes).toBe(1_000_000);
});
