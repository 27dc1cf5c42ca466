import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { ServiceEntry } from "../../src/edge/service-entry.ts";
import { openPolicy } from "../../src/rpc/policy.ts";
import {
  type EchoStatus,
  type StreamingOutputCallRequest,
  TestService,
} from "../gen/grpc/testing/test_pb.ts";

/**
 * The server of gRPC's interoperability test cases. `events` are named for the method: "begun X" once
 * a stream of requests has reached its handler, "left X" when its client broke it off, "over X" at the
 * end of either kind.
 */
export function interopService(): { entry: ServiceEntry; events: EventEmitter } {
  const events = new EventEmitter();
  const implementation: Partial<ServiceImpl<typeof TestService>> = {
    emptyCall(_request, context) {
      echoMetadata(context);
      return {};
    },
    unaryCall({ responseSize, responseStatus, expectCompressed }, context) {
      echoMetadata(context);
      const encoding = context.requestHeader.get("grpc-encoding") ?? "identity";
      if (expectCompressed?.value === true && encoding === "identity") {
        throw new ConnectError("the request is not compressed", Code.InvalidArgument);
      }
      throwStatus(responseStatus);
      return { payload: payloadOf(responseSize) };
    },
    async *streamingOutputCall(request, context) {
      yield* answer(request, context);
    },
    async streamingInputCall(requests, context) {
      let aggregatedPayloadSize = 0;
      for await (const { payload } of watched(requests, context)) {
        aggregatedPayloadSize += payload?.body.length ?? 0;
      }
      return { aggregatedPayloadSize };
    },
    async *fullDuplexCall(requests, context) {
      echoMetadata(context);
      for await (const request of watched(requests, context)) {
        yield* answer(request, context);
      }
    },
  };
  return { entry: { service: TestService, implementation, policy: openPolicy }, events };

  async function* watched<T>(requests: AsyncIterable<T>, { method }: HandlerContext) {
    events.emit(`begun ${method.name}`);
    try {
      yield* requests;
    } catch (error) {
      events.emit(`left ${method.name}`);
      throw error;
    } finally {
      events.emit(`over ${method.name}`);
    }
  }
}

async function* answer(request: StreamingOutputCallRequest, { signal }: HandlerContext) {
  for (const { size, intervalUs } of request.responseParameters) {
    if (intervalUs > 0) {
      await sleep(intervalUs / 1000, undefined, { signal });
    }
    yield { payload: payloadOf(size) };
  }
  throwStatus(request.responseStatus);
}

function payloadOf(size: number) {
  return { body: new Uint8Array(size) };
}

function throwStatus(status: EchoStatus | undefined): void {
  if (status !== undefined && status.code !== 0) {
    throw new ConnectError(status.message, status.code);
  }
}

const echoInitial = "x-grpc-test-echo-initial";
const echoTrailing = "x-grpc-test-echo-trailing-bin";

function echoMetadata({ requestHeader, responseHeader, responseTrailer }: HandlerContext): void {
  const initial = requestHeader.get(echoInitial);
  const trailing = requestHeader.get(echoTrailing);
  if (initial !== null) {
    responseHeader.set(echoInitial, initial);
  }
  if (trailing !== null) {
    responseTrailer.set(echoTrailing, trailing);
  }
}
