import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, type ServiceImpl } from "@connectrpc/connect";
import { CatalogService } from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { endResponse } from "../../src/edge/http-message.ts";
import type { Mount } from "../../src/edge/mount.ts";
import { createEdge, type EdgeOptions } from "../../src/edge/server.ts";
import { entry } from "../../src/edge/service-entry.ts";
import type { Finish } from "../../src/edge/telemetry.ts";
import { callOf } from "../../src/rpc/call.ts";
import { notFound, reasoned } from "../../src/rpc/errors.ts";
import { createLimiter } from "../../src/rpc/limiter.ts";
import { openPolicy } from "../../src/rpc/policy.ts";
import { type Authenticator, type Role, requirePrincipal } from "../../src/rpc/principal.ts";
import { createSteps, type Steps } from "../../src/rpc/steps.ts";
import { BookSchema, LibraryService } from "../gen/callora/test/v1/library_service_pb.ts";

/** Admits `Bearer <role>` as a person of that role. */
const byRole: Authenticator = async ({ header }) => {
  const role = /^Bearer (user|developer|admin|super_admin)$/.exec(
    header.get("authorization") ?? "",
  );
  return role === null
    ? undefined
    : {
        kind: "user",
        id: "usr_1",
        accountId: "acc_1",
        memberRole: "owner",
        homeAccountId: "acc_1",
        role: role[1] as Role,
        mode: "live",
        credential: "token",
        credentialId: "tok_1",
      };
};

/** A running edge over a library and a catalogue. Everything given replaces the default. */
export async function startEdge({
  port: wanted = 0,
  ...options
}: Partial<EdgeOptions> & { port?: number } = {}) {
  const finished: Finish[] = [];
  const waiting: (() => void)[] = [];
  const errors: unknown[] = [];
  const refusals: string[] = [];
  const steps = createSteps({
    authenticators: [byRole],
    limiter: createLimiter(),
    now: () => new Date(),
    auditRefusal: async (call) => {
      refusals.push(call.name);
    },
    onInternalError: (_call, error) => {
      errors.push(error);
    },
  });
  const edge = createEdge({
    services: [
      entry(LibraryService, libraryService(), openPolicy),
      entry(CatalogService, catalogService()),
    ],
    steps,
    onFinish: (finish) => {
      finished.push(finish);
      waiting.shift()?.();
    },
    onError: (error) => {
      errors.push(error);
    },
    ...options,
  });
  const { port } = await edge.listen({ host: "127.0.0.1", port: wanted });
  return {
    edge,
    port,
    url: `${options.tls ? "https" : "http"}://127.0.0.1:${port}`,
    finished,
    errors,
    refusals,
    steps,
    /** Resolves when the next request has been reported. */
    nextFinish: () =>
      new Promise<void>((resolve) => {
        waiting.push(resolve);
      }),
    async [Symbol.asyncDispose]() {
      await edge.close({ graceMs: 0 });
    },
  };
}

/** Steps that let everything pass. */
export const noSteps: Steps = {
  admit: async () => {},
  around: (_call, handler) => handler(),
  validated: (_desc, messages) => messages,
  whileAdmitted: (_call, messages) => messages,
};

/** A plain route, open to all, that answers "mounted" unless told otherwise. */
export function mount(method: Mount["method"], pattern: string, more: Partial<Mount> = {}): Mount {
  const handler: Mount["handler"] = (_request, response) => endResponse(response, "mounted");
  return { method, pattern, policy: openPolicy, handler, ...more };
}

/** A library of one book, `b1`. Other ids name the error that comes back. */
export function libraryService(): ServiceImpl<typeof LibraryService> {
  const book = create(BookSchema, { id: "b1", title: "Momo", tags: ["time"] });
  return {
    getBook({ id, name }, context) {
      context.responseHeader.set("x-shelf", "7");
      context.responseTrailer.set("x-mood", "calm");
      context.responseHeader.set("x-protocol", callOf(context).exchange.protocol);
      const { clientIp, isSecure } = callOf(context).exchange;
      context.responseHeader.set("x-client", clientIp);
      context.responseHeader.set("x-client-scheme", isSecure ? "https" : "http");
      if (id === "crash") {
        throw new Error("secret of the database");
      }
      if (id === "busy") {
        throw reasoned(Code.Unavailable, { reason: "BUSY", message: "later", retryAfterMs: 1500 });
      }
      if (id !== "b1" && name === "") {
        throw notFound(`book "${id}"`);
      }
      return { book: { ...book, title: name === "" ? book.title : name } };
    },
    listBooks: ({ pageSize }) => ({ books: Array.from({ length: pageSize }, () => book) }),
    createBook: ({ book: made }) => (made === undefined ? {} : { book: made }),
    updateBook: ({ book: made }) => (made === undefined ? {} : { book: made }),
    deleteBook: () => ({}),
    async lendBook(_request, { signal }) {
      if (!signal.aborted) {
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      }
      throw signal.reason;
    },
    getFile: ({ path }) => ({
      file: { contentType: "text/plain", data: new TextEncoder().encode(path) },
    }),
    putFile: ({ file }) => ({ size: BigInt(file?.data.length ?? 0) }),
    echo: ({ everything }) => (everything === undefined ? {} : { everything }),
    async *watchBooks({ count }) {
      for (let index = 0; index < Math.abs(count); index++) {
        yield { book: { id: `b${index}` } };
      }
      if (count <= 0) {
        throw new Error("secret of the stream");
      }
    },
    async importBooks(requests) {
      let count = 0;
      for await (const _ of requests) {
        count++;
      }
      return { count };
    },
    countBooks: () => ({ count: 1n }),
  };
}

function catalogService(): ServiceImpl<typeof CatalogService> {
  const api = { id: "api_1", createTime: timestampFromMs(0) };
  return {
    listApis: () => ({ apis: [] }),
    getApi: () => ({ api }),
    createApi(_request, context) {
      requirePrincipal(context);
      callOf(context).audited = true;
      return { api };
    },
    updateApi: () => ({ api }),
    publishApi: () => ({ api }),
    unpublishApi: () => ({ api }),
    listOwnApis: () => ({ apis: [] }),
    listPrices: () => ({ prices: [] }),
  };
}
