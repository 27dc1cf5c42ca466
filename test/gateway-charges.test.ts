import { once } from "node:events";
import { request, type ServerResponse } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { expect } from "vitest";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { until } from "./support/app.ts";
import { free, paid, readAll, reasonOf, send, setUp } from "./support/calls.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

// Ways in which a consumer had the upstream's work without paying for it, or paid for what he did not get.

test.for([`GET${"X".repeat(500)}`, "PURGE"])(
  "a method that APIs do not have is refused: its event could not be counted: %s",
  async (method, { app }) => {
    await using upstream = await startUpstream();
    const { path, secret, call, events } = await setUp(app, upstream.url);
    const session = connectHttp2(app.url);

    const stream = session.request({ ":method": method, ":path": path, "x-api-key": secret });
    const [headers] = await once(stream, "response");
    const body = String(await readAll(stream));
    session.close();
    await (await call("fine")).text();

    expect([headers[":status"], headers["allow"]]).toEqual([
      405,
      "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, QUERY",
    ]);
    expect(body).toContain("METHOD_NOT_ALLOWED");
    expect(upstream.requests.map(({ url }) => url)).toEqual(["/fine"]);
    expect(await events()).toEqual(paid(200));
  },
);
