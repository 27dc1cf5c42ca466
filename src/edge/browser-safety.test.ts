import { expect, test } from "vitest";
import { LibraryService } from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { libraryService, startEdge } from "../../test/support/edge.ts";
import { openPolicy } from "../rpc/policy.ts";
import { entry } from "./service-entry.ts";

test("raw bytes that a browser would run are put in a sandbox, others are not", async () => {
  const getFile = ({ path }: { path: string }) => ({
    file: {
      contentType: path.endsWith("html") ? "text/html" : "text/plain",
      data: Buffer.from("<script>alert(1)</script>"),
    },
  });
  const service = entry(LibraryService, { ...libraryService(), getFile }, openPolicy);
  await using at = await startEdge({ services: [service] });

  const page = await fetch(`${at.url}/v1/files/a.html`);
  const text = await fetch(`${at.url}/v1/files/a.txt`);

  expect(page.headers.get("content-security-policy")).toMatch(/^sandbox; default-src 'none'/);
  expect(text.headers.get("content-security-policy")).toBeNull();
  for (const { headers } of [page, text]) {
    expect(headers.get("x-content-type-options")).toBe("nosniff");
  }
});

test("a body without a type is JSON, but not when a cookie comes with it", async () => {
  await using at = await startEdge();
  const post = (headers: Record<string, string>) =>
    fetch(`${at.url}/v1/books`, { method: "POST", body: Buffer.from("{}"), headers });

  const plain = await post({});
  const withCookie = await post({ cookie: "session=1" });
  const typed = await post({ cookie: "session=1", "content-type": "application/json" });

  expect([plain.status, withCookie.status, typed.status]).toEqual([200, 415, 200]);
});

test("what is told of a request never holds its path, its query or its tokens", async () => {
  await using at = await startEdge();
  const paths = [
    "/v1/books/secret-1?key=secret-2",
    "/secret-3?access_token=secret-4",
    "/v1/books/crash",
  ];

  for (const path of paths) {
    const finish = at.nextFinish();
    await fetch(at.url + path, { headers: { authorization: "Bearer secret-5" } });
    await finish;
  }

  expect(at.finished).toHaveLength(3);
  expect(JSON.stringify(at.finished)).not.toContain("secret");
  expect(at.errors.map(String).join()).not.toContain("secret-");
});
