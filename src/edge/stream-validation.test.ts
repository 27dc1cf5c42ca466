import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, describe, expect, test } from "vitest";
import { ClubService } from "../../test/gen/callora/test/v1/club_service_pb.ts";
import { clubEntry } from "../../test/support/club.ts";
import { startEdge } from "../../test/support/edge.ts";
import { openPolicy } from "../rpc/policy.ts";

const halfDuplex = ["callora.test.v1.ClubService/Discuss"];
const at = await startEdge({ services: [clubEntry()], halfDuplex });
afterAll(() => at[Symbol.asyncDispose]());

const transports = {
  gRPC: createGrpcTransport({ baseUrl: at.url }),
  Connect: createConnectTransport({ baseUrl: at.url, httpVersion: "2" }),
};

async function read<T>(messages: AsyncIterable<T>): Promise<T[]> {
  const read: T[] = [];
  for await (const message of messages) {
    read.push(message);
  }
  return read;
}

describe.each(Object.entries(transports))("over %s", (_name, transport) => {
  const client: Client<typeof ClubService> = createClient(ClubService, transport);

  test("the request of a stream of responses is validated", async () => {
    const error = await read(client.listen({ club: "x".repeat(101) })).catch((thrown) => thrown);

    expect(ConnectError.from(error)).toMatchObject({ code: Code.InvalidArgument });
    expect(error.rawMessage).toContain("club");
  });

  test("each request of a stream is validated", async () => {
    async function* votes() {
      yield { club: "c", book: "b1", points: 1 };
      yield { club: "c", book: "b2", points: 1001 };
    }

    const error = await client.vote(votes()).catch((thrown) => thrown);

    expect(ConnectError.from(error)).toMatchObject({ code: Code.InvalidArgument });
    expect(error.rawMessage).toContain("points");
  });
});

test("a stream over REST is validated", async () => {
  const reply = await fetch(`${at.url}/v1/clubs/${"x".repeat(101)}:listen`);

  expect(reply.status).toBe(400);
  expect(JSON.stringify(await reply.json())).toContain("club");
});

test("a stream whose change is not in the audit log ends in an error", async () => {
  const policy = { ...openPolicy, auditAction: "club.listen" };
  await using audited = await startEdge({ services: [clubEntry({}, policy)], halfDuplex });
  const client = createClient(ClubService, createGrpcTransport({ baseUrl: audited.url }));

  const error = await read(client.listen({ club: "c", count: 1 })).catch((thrown) => thrown);

  expect(ConnectError.from(error).code).toBe(Code.Internal);
});
