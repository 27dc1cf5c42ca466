import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import { Readable } from "node:stream";
import { Code, type ConnectError } from "@connectrpc/connect";
import { context, propagation } from "@opentelemetry/api";
import { type Dispatcher, errors as undiciErrors } from "undici";
import { type ApiTarget, findApiTarget } from "../catalog/store.ts";
import type { Database } from "../db/database.ts";
import { newId } from "../lib/id.ts";
import { gatewaySource, type UsageEntry } from "../metering/entry.ts";
import type { Journal } from "../metering/journal.ts";
import type { Call } from "../rpc/call.ts";
import { permissionDenied, RouteError, reasoned, unauthenticated } from "../rpc/errors.ts";
import type { Principal } from "../rpc/principal.ts";
import { consumerHeaders, upstreamHeaders } from "./headers.ts";
import type { LeaseBook, Reservation } from "./lease-book.ts";
import { cutOff, hasLeft, type Response, relayBody } from "./relay.ts";
import { endpointName, isApiName, splitCallTarget, upstreamUrl } from "./target.ts";
import { AddressRefusedError } from "./upstream.ts";

type Request = IncomingMessage | Http2ServerRequest;
type KeyPrincipal = Extract<Principal, { kind: "key" }>;

interface Deps {
  db: Database;
  journal: Journal;
  leases: LeaseBook;
  client: Dispatcher;
  /** Count one use of a key against its own limits and its quota. Throws RESOURCE_EXHAUSTED. */
  countUse: (key: KeyPrincipal) => Promise<void>;
  /** Told when a key is no longer accepted. Returns how to stop it. */
  watchKey: (key: KeyPrincipal, onRefused: () => void) => () => void;
  now: () => Date;
}

/** One call on its way. */
interface Passage {
  call: Call;
  key: KeyPrincipal;
  api: ApiTarget;
  reservation: Reservation;
  endpoint: string;
}

/**
 * Pass a consumer's call on to the API's upstream, and charge it.
 *
 * The reply ends only when the call's event is in the journal. A call is free when the upstream failed (status 500
 * and above, or no whole reply); a consumer that goes away once the call was sent pays.
 */
export function gatewayHandler(deps: Deps) {
  return async (
    request: Request,
    response: Response,
    { call, params }: { call: Call; params: Readonly<Record<string, string>> },
  ): Promise<void> => {
    const key = call.principal;
    if (key?.kind !== "key") {
      throw unauthenticated();
    }
    const api = await findTarget(deps, params.api ?? "", key);
    const { rest, query } = splitCallTarget(request.url ?? "");
    const url = upstreamUrl(api.upstream_url, rest, query);
    if (url === null) {
      const message = "Cannot pass the call on: its path has dot segments";
      throw reasoned(Code.InvalidArgument, { reason: "PATH_INVALID", message });
    }
    const reservation = await reserve(deps, key, api);
    await deps.countUse(key).catch((error: unknown) => {
      reservation.release(api.call_nanos);
      throw error;
    });
    const endpoint = endpointName(request.method ?? "GET", rest);
    const stopWatching = deps.watchKey(key, () => cutOff(response));
    try {
      await pass(deps, { request, response, url }, { call, key, api, reservation, endpoint });
    } finally {
      stopWatching();
    }
  };
}

async function findTarget({ db }: Deps, name: string, key: KeyPrincipal): Promise<ApiTarget> {
  const api = isApiName(name) ? await db.systemTransaction((tx) => findApiTarget(tx, name)) : null;
  if (api === null) {
    const message = "Cannot find the API";
    throw reasoned(Code.NotFound, { reason: "API_NOT_FOUND", message });
  }
  if (key.apiId !== null && api.id !== key.apiId) {
    throw permissionDenied("KEY_NOT_FOR_API", "Cannot call the API: the key is for another one");
  }
  return api;
}

async function reserve({ leases }: Deps, key: KeyPrincipal, api: ApiTarget): Promise<Reservation> {
  const { accountId, mode } = key;
  const outcome = await leases.reserve({ accountId, mode, amountNanos: api.call_nanos });
  if ("availableNanos" in outcome) {
    const message =
      `Cannot pay for the call: it costs ${api.call_nanos} nano-USDC, ` +
      `available are ${outcome.availableNanos}`;
    const error = reasoned(Code.FailedPrecondition, { reason: "CREDIT_EXHAUSTED", message });
    throw new RouteError(402, error);
  }
  return outcome;
}

async function pass(
  deps: Deps,
  { request, response, url }: { request: Request; response: Response; url: URL },
  passage: Passage,
): Promise<void> {
  let isBegun = false;
  let upstream: Dispatcher.ResponseData;
  try {
    upstream = await deps.client
      .compose(
        onRequestStart(() => {
          isBegun = true;
        }),
      )
      .request({
        origin: url.origin,
        path: `${url.pathname}${url.search}`,
        method: (request.method ?? "GET") as Dispatcher.HttpMethod,
        headers: upstreamHeaders(request.headers, addedHeaders(passage.call)),
        body: hasBody(request) ? bodyOf(request) : null,
        signal: passage.call.signal,
      });
  } catch (error) {
    const isSent = isBegun && (!hasBody(request) || request.readableEnded);
    if (isSent && hasLeft(response)) {
      await settle(deps, passage, { status: consumerLeftStatus, isWhole: true });
      return;
    }
    const failure = toFailure(error);
    await settle(deps, passage, { status: failure.httpStatus, isWhole: false });
    throw failure;
  }
  await answer(deps, { upstream, response, isHead: request.method === "HEAD" }, passage);
}

/** What is noted of a call whose consumer did not wait for the status. */
const consumerLeftStatus = 499;

/** Told when a call has a connection and begins to be sent. */
function onRequestStart(begun: () => void): Dispatcher.DispatcherComposeInterceptor {
  return (dispatch) => (options, handler) => {
    const start = handler.onRequestStart?.bind(handler);
    handler.onRequestStart = (controller, context) => {
      begun();
      start?.(controller, context);
    };
    return dispatch(options, handler);
  };
}

/** Not the request itself: a failed call would destroy it, and with it the connection that the answer needs. */
function bodyOf(request: Request): Readable {
  return Readable.from(request.iterator({ destroyOnReturn: false }), { objectMode: false });
}

/** Send the upstream's answer on. It is complete for its reader only once the call's event is durable. */
async function answer(
  deps: Deps,
  { upstream, response, isHead }: Answering,
  passage: Passage,
): Promise<void> {
  const { statusCode: status, headers, body } = upstream;
  if (status > 599) {
    body.on("error", () => {}).destroy();
    await settle(deps, passage, { status: 502, isWhole: false });
    throw failure(502, "UPSTREAM_INVALID");
  }
  const hasNoBody = isHead || status === 204 || status === 304;
  const length = hasNoBody ? 0 : lengthOf(headers["content-length"]);
  let isBegun = false;
  function begin() {
    if (!isBegun && !hasLeft(response)) {
      response.statusCode = status;
      for (const [name, value] of Object.entries(consumerHeaders(headers))) {
        response.setHeader(name, value);
      }
      const charged = chargeOf(passage.api, { status, isWhole: true });
      response.setHeader("x-callora-charged-nanos", charged.toString());
    }
    isBegun = true;
  }
  if (length === null) {
    // A stream may have its first part to say only much later.
    begin();
    (response as ServerResponse).flushHeaders();
  }
  const end = await relayBody(body, response, { length, begin });
  if (end.kind === "upstream-broke-off") {
    // Broken off while we stop, or by the upstream: either way its work has not reached the consumer.
    const failed = toFailure(end.error);
    await settle(deps, passage, { status: failed.httpStatus, isWhole: false });
    throw failed;
  }
  // A consumer who leaves has had the upstream's work.
  await settle(deps, passage, { status, isWhole: true });
  if (end.kind === "whole") {
    begin();
    response.end(end.rest);
  }
}

interface Answering {
  upstream: Dispatcher.ResponseData;
  response: Response;
  isHead: boolean;
}

function lengthOf(header: string | string[] | undefined): number | null {
  return typeof header === "string" && /^\d{1,15}$/.test(header) ? Number(header) : null;
}

/** Append the call's event, and give back what it did not cost. */
async function settle(
  { journal, now }: Deps,
  { call, key, api, reservation, endpoint }: Passage,
  outcome: { status: number; isWhole: boolean },
): Promise<void> {
  const charged = chargeOf(api, outcome);
  const entry = gatewayEntry({
    id: newId("evt", now()),
    key,
    api,
    endpoint,
    status: outcome.status,
    now: now(),
    chargedNanos: charged,
    lease: reservation.leaseId,
    requestId: call.exchange.requestId,
  });
  await appendWithRetry(journal, entry);
  reservation.release(api.call_nanos - charged);
}

/** A call as the journal keeps it. */
function gatewayEntry({
  key,
  api,
  now,
  lease,
  ...rest
}: Pick<UsageEntry, "id" | "endpoint" | "status" | "chargedNanos" | "lease" | "requestId"> & {
  key: Pick<KeyPrincipal, "id" | "accountId" | "mode">;
  api: ApiTarget;
  now: Date;
}): UsageEntry {
  return {
    ...rest,
    kind: "usage",
    account: key.accountId,
    source: gatewaySource,
    price: {
      apiId: api.id,
      developerId: api.account_id,
      version: api.price_version,
      unitNanos: api.call_nanos,
      feeBasisPoints: api.fee_basis_points,
      rule: "",
    },
    timeMicros: BigInt(now.getTime()) * 1_000n,
    timeUnset: false,
    mode: key.mode,
    data: "",
    units: 1n,
    lease: rest.chargedNanos === 0n ? null : lease,
    keyId: key.id,
    replays: null,
    outcome: "whole",
    unitsBefore: 0n,
    keptHash: null,
  };
}

const appendTries = 3;

/** Its identity makes a retried event count once, even when the first try did reach the journal. */
async function appendWithRetry(journal: Journal, entry: UsageEntry): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await journal.append([entry]);
      return;
    } catch (error) {
      if (attempt === appendTries) {
        throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 100 * 4 ** attempt));
    }
  }
}

function chargeOf(
  api: ApiTarget,
  { status, isWhole }: { status: number; isWhole: boolean },
): bigint {
  return isWhole && status < 500 ? api.call_nanos : 0n;
}

function addedHeaders({ exchange }: Call): Record<string, string> {
  const headers = { "x-request-id": exchange.requestId, "x-forwarded-for": exchange.clientIp };
  propagation.inject(context.active(), headers);
  return headers;
}

function hasBody(request: Request): boolean {
  const { "content-length": length, "transfer-encoding": encoding } = request.headers;
  const isHttp2 = request.httpVersionMajor === 2;
  return (
    encoding !== undefined ||
    (length !== undefined && length !== "0") ||
    (isHttp2 && !(request as Http2ServerRequest).stream.endAfterHeaders)
  );
}

function toFailure(error: unknown): RouteError {
  if (error instanceof AddressRefusedError) {
    return failure(502, "UPSTREAM_NOT_ALLOWED");
  }
  const isTimeout =
    error instanceof undiciErrors.HeadersTimeoutError ||
    error instanceof undiciErrors.ConnectTimeoutError ||
    error instanceof undiciErrors.BodyTimeoutError;
  return isTimeout ? failure(504, "UPSTREAM_TIMEOUT") : failure(502, "UPSTREAM_UNREACHABLE");
}

/** The message does not say where the upstream is: only its developer may know. */
function failure(httpStatus: number, reason: string): RouteError {
  const error: ConnectError = reasoned(Code.Unavailable, {
    reason,
    message: "Cannot get the upstream's reply: nothing was charged",
  });
  return new RouteError(httpStatus, error);
}
