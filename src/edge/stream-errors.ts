import type { Interceptor } from "@connectrpc/connect";
import { type Exchange, exchangeKey } from "../rpc/call.ts";
import { completeError, toConnectError } from "../rpc/errors.ts";

/**
 * Turn what a streaming handler throws into what its caller may see. A stream is read after the steps
 * of its call have passed, so their own handling of errors sees none of it.
 */
export function streamErrors(onError: (error: unknown, exchange: Exchange) => void): Interceptor {
  return (next) => async (req) => {
    const response = await next(req);
    if (!response.stream) {
      return response;
    }
    const exchange = req.contextValues.get(exchangeKey);
    return exchange === undefined
      ? response
      : { ...response, message: guard(response.message, exchange, onError) };
  };
}

async function* guard<T>(
  messages: AsyncIterable<T>,
  exchange: Exchange,
  onError: (error: unknown, exchange: Exchange) => void,
) {
  try {
    yield* messages;
  } catch (thrown) {
    const error = toConnectError(thrown);
    if (error.cause !== undefined) {
      onError(error, exchange);
    }
    throw completeError(error, exchange.requestId);
  }
}
