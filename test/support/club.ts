import type { ServiceImpl } from "@connectrpc/connect";
import { entry, type ServiceEntry } from "../../src/edge/service-entry.ts";
import { openPolicy, type Policy } from "../../src/rpc/policy.ts";
import { ClubService } from "../gen/callora/test/v1/club_service_pb.ts";

/** A book club, open to all unless told otherwise. Every method that is given replaces its own. */
export function clubEntry(
  methods: Partial<ServiceImpl<typeof ClubService>> = {},
  policy: Policy = openPolicy,
): ServiceEntry {
  return entry(ClubService, { ...clubService(), ...methods }, policy);
}

function clubService(): ServiceImpl<typeof ClubService> {
  return {
    async vote(requests, context) {
      context.responseTrailer.set("x-mood", "calm");
      return { votes: await toArray(requests) };
    },
    async upload(requests) {
      let size = 0n;
      let name = "";
      const contentTypes: string[] = [];
      for await (const request of requests) {
        name ||= request.name;
        contentTypes.push(request.file?.contentType ?? "");
        size += BigInt(request.file?.data.length ?? 0);
      }
      return { name, contentTypes, size };
    },
    async *download({ name }) {
      const contentType = name.endsWith(".svg") ? "image/svg+xml" : "text/plain";
      yield { contentType, data: Buffer.from("first,") };
      if (name === "broken") {
        throw new Error("secret of the disk");
      }
      yield { contentType: "text/ignored", data: Buffer.from("second") };
    },
    async *listen({ club, count }, context) {
      context.responseHeader.set("x-club", club);
      for (let index = 0; index < count; index++) {
        yield { word: `w${index}` };
      }
      context.responseTrailer.set("x-mood", "calm");
      if (club === "broken") {
        throw new Error("secret of the stream");
      }
      if (club === "endless") {
        await new Promise(() => {});
      }
    },
    async *discuss(requests) {
      for await (const { word } of requests) {
        yield { word: `${word}!` };
      }
    },
  };
}

async function toArray<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) {
    collected.push(item);
  }
  return collected;
}
