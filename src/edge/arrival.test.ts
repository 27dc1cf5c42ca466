import { IncomingMessage, ServerResponse } from "node:http";
import { Socket } from "node:net";
import { expect, test } from "vitest";
import { Http1Arrival } from "./arrival.ts";

test("all are told of the end, also when one of them takes itself off", () => {
  const request = new IncomingMessage(new Socket());
  const response = new ServerResponse(request);
  const arrival = new Http1Arrival(request, response);
  const told: string[] = [];
  const first = () => {
    told.push("first");
    arrival.offClosed(first);
  };
  arrival.onceClosed(first);
  arrival.onceClosed(() => told.push("second"));

  response.emit("close");
  response.emit("close");

  expect(told).toEqual(["first", "second"]);
});
