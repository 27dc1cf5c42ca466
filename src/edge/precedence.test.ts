import { expect, test } from "vitest";
import openapi from "../../gen/openapi.json" with { type: "json" };
import { mount, startEdge } from "../../test/support/edge.ts";
import { docsRoutes } from "./docs.ts";

test("a route for every path shadows neither descriptions, nor RPCs, nor REST", async () => {
  await using at = await startEdge({
    docs: docsRoutes({ openapi }),
    mounts: [mount("ANY", "/{page=**}")],
  });
  const read = async (path: string, init?: RequestInit) =>
    (await fetch(at.url + path, init)).text();
  const call = {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: '{"id":"b1"}',
  };

  expect(await read("/openapi.json")).toContain('"openapi"');
  expect(await read("/v1/books/b1")).toContain("Momo");
  expect(await read("/callora.test.v1.LibraryService/GetBook", call)).toContain("Momo");
  expect(await read("/anything/else")).toBe("mounted");
});
