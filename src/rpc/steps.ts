import { type DescMessage, type Message, toBinary } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import {
  createValidator,
  type Validator,
  type Violation,
  violationsToProto,
} from "@bufbuild/protovalidate";
import {
  Code,
  type ConnectError,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import { SpanStatusCode, trace } from "@opentelemetry/api";
import { Access } from "../../gen/callora/policy/v1/policy_pb.ts";
import { addressBlock } from "../lib/address.ts";
import { type Call, callKey, callOf, exchangeKey } from "./call.ts";
import { hasCredential } from "./credentials.ts";
import {
  completeError,
  invalidArgument,
  rateLimited,
  toConnectError,
  unauthenticated,
} from "./errors.ts";
import { perMinute } from "./gcra.ts";
import { type LimitDeps, limitCall } from "./limit.ts";
import { methodName, type Policy } from "./policy.ts";
import { type Authenticator, checkAccess, type Principal } from "./principal.ts";
import type { Strangers } from "./strangers.ts";
import { untilRefused } from "./until-refused.ts";
import { malformedFields } from "./well-formed.ts";

/** What the steps need and may not import. */
export interface StepDeps extends LimitDeps {
  authenticators: readonly Authenticator[];
  /** Counts calls whose credential nobody knows. Undefined: nobody does. */
  strangers?: Strangers;
  /** Write down that an audited call was refused. */
  auditRefusal: (call: Call, error: ConnectError) => Promise<void>;
  /** Told of every error whose cause a caller does not see. */
  onInternalError: (call: Call, error: ConnectError) => void;
}

/** The steps of every call. */
export interface Steps {
  /**
   * Before the request's body is read: authenticate, limit. Throws what the caller is told.
   *
   * A stranger is turned away here, and so learns nothing of what a request must look like.
   */
  admit(call: Call): void | Promise<void>;
  /** Around the handler, outermost first: telemetry, errors, audit, validate, authenticate a change once more. */
  around<T>(call: Call, handler: () => T | Promise<T>): T | Promise<T>;
  /** The messages of a stream of requests, each of them valid. Throws INVALID_ARGUMENT at the first that is not. */
  validated<T extends Message>(desc: DescMessage, messages: AsyncIterable<T>): AsyncIterable<T>;
  /** The messages of a stream, as long as its caller may call. Then throws what the caller is told. */
  whileAdmitted<T>(call: Call, messages: AsyncIterable<T>): AsyncIterable<T>;
}

/** Make the steps. */
export function createSteps(deps: StepDeps): Steps {
  const validator = createValidator();
  const refuse = (call: Call) => async (thrown: unknown) => {
    throw await explain(deps, call, thrown);
  };
  return {
    // No promise is made before one is needed: most calls are admitted from memory.
    admit(call) {
      try {
        const authenticated = authenticate(deps, call);
        const limited =
          authenticated === undefined
            ? limitCall(deps, call)
            : authenticated.then(() => limitCall(deps, call));
        return limited?.catch(refuse(call));
      } catch (thrown) {
        return refuse(call)(thrown);
      }
    },
    around(call, handler) {
      try {
        if (call.request !== undefined) {
          validate(validator, call.request);
        }
        const authenticated = authenticateAgain(deps, call);
        const result = authenticated === undefined ? handler() : authenticated.then(handler);
        if (result instanceof Promise) {
          return result.then((value) => pass(call, value)).catch(refuse(call));
        }
        return pass(call, result);
      } catch (thrown) {
        return refuse(call)(thrown);
      }
    },
    async *validated(desc, messages) {
      for await (const message of messages) {
        validate(validator, { desc, message });
        yield message;
      }
    },
    whileAdmitted: (call, messages) =>
      call.principal === undefined
        ? messages
        : untilRefused(messages, (onRefused) => watchCaller(deps, call, onRefused)),
  };
}

/**
 * Open a call and admit it, by what is known before its body is read. Leaves it in the context for
 * stepsInterceptor and the handler.
 */
export async function admitRpc(
  steps: Steps,
  policyOf: (name: string) => Policy,
  { method, requestHeader, signal, values }: HandlerContext,
): Promise<void> {
  const exchange = values.get(exchangeKey);
  if (exchange === undefined) {
    throw new Error("Cannot serve a call that did not come through the edge");
  }
  const name = methodName(method);
  const policy = policyOf(name);
  const call: Call = { name, policy, exchange, header: requestHeader, signal, audited: false };
  values.set(callKey, call);
  await steps.admit(call);
}

/** The steps around the handler as a Connect interceptor, for RPCs of every protocol. */
export function stepsInterceptor(steps: Steps): Interceptor {
  return (next) => async (req) => {
    const call = callOf({ values: req.contextValues });
    if (!req.stream) {
      call.request = { desc: req.method.input, message: req.message };
      return steps.around(call, () => next(req));
    }
    call.streams = req.method.methodKind !== "client_streaming";
    const sent = steps.whileAdmitted(call, req.message);
    const message = steps.validated(req.method.input, sent);
    const response = await steps.around(call, () => next({ ...req, message }));
    return response.stream
      ? {
          ...response,
          message: steps.whileAdmitted(call, untilAudited(call, response.message)),
        }
      : response;
  };
}

async function* untilAudited<T>(call: Call, messages: AsyncIterable<T>): AsyncIterable<T> {
  yield* messages;
  requireAudit(call);
}

/** What the caller is told of what was thrown. Before, it is written down wherever it must be. */
async function explain(deps: StepDeps, call: Call, thrown: unknown): Promise<ConnectError> {
  let error = toConnectError(thrown);
  try {
    await auditRefusal(deps, call, error);
  } catch (failure) {
    error = toConnectError(failure);
  }
  if (error.cause !== undefined) {
    deps.onInternalError(call, error);
  }
  markSpan(error.code);
  return completeError(error, call.exchange.requestId);
}

function markSpan(code: Code): void {
  const span = trace.getActiveSpan();
  span?.setAttribute("rpc.status_code", Code[code]);
  if (code === Code.Internal || code === Code.Unknown || code === Code.DataLoss) {
    span?.setStatus({ code: SpanStatusCode.ERROR });
  }
}

/** Codes that say the caller was not allowed to. */
const refusals = new Set([Code.Unauthenticated, Code.PermissionDenied]);

/** Refusals of one address that are written down. Without a limit strangers could fill the audit log. */
const refusalRate = perMinute(120);

async function auditRefusal(deps: StepDeps, call: Call, error: ConnectError): Promise<void> {
  if (call.policy.auditAction === "" || !refusals.has(error.code)) {
    return;
  }
  const id = `refusal:${addressBlock(call.exchange.clientIp)}`;
  const verdict = await deps.limiter.take(
    [{ id, rate: refusalRate, isOfStranger: true }],
    deps.now(),
  );
  if (!verdict.allowed) {
    throw rateLimited(verdict.retryAfterMs);
  }
  await deps.auditRefusal(call, error);
}

function pass<T>(call: Call, value: T): T {
  if (call.streams !== true) {
    requireAudit(call);
  }
  return value;
}

function requireAudit(call: Call): void {
  if (call.policy.auditAction !== "" && !call.audited) {
    throw new Error(`Cannot answer ${call.name}: its change is not in the audit log`);
  }
}

/** Find who calls, and whether they may. */
function authenticate(deps: StepDeps, call: Call): undefined | Promise<undefined> {
  if (call.policy.access === Access.METRICS_KEY) {
    return undefined;
  }
  const found = findPrincipal(deps, call, 0);
  return found instanceof Promise
    ? found.then((principal) => meet(deps, call, principal))
    : meet(deps, call, found);
}

function meet({ strangers }: StepDeps, call: Call, principal: Principal | undefined): undefined {
  if (principal === undefined && hasCredential(call.header)) {
    strangers?.count(call.exchange);
  }
  return enter(call, principal);
}

/**
 * Authenticate a change once more. The client chooses when the body ends: what was revoked since the call was admitted
 * must mint nothing.
 */
function authenticateAgain(deps: StepDeps, call: Call): undefined | Promise<undefined> {
  if (call.policy.auditAction === "" || call.principal === undefined) {
    return undefined;
  }
  return meetAgain(deps, call, call.principal);
}

/** Throws what the caller is told who is not the one any more that was admitted. */
function meetAgain(
  deps: StepDeps,
  call: Call,
  { kind, id, accountId }: Principal,
): undefined | Promise<undefined> {
  const found = findPrincipal(deps, call, 0);
  return found instanceof Promise ? found.then(check) : check(found);

  function check(principal: Principal | undefined): undefined {
    const isSame =
      principal?.kind === kind && principal.id === id && principal.accountId === accountId;
    if (!isSame) {
      throw unauthenticated();
    }
    return enter(call, principal);
  }
}

/** How often it is asked whether the caller of an open stream may still call: memory tells. */
const streamCheckMs = 1_000;

/** Calls back once, with what the caller is told, when the caller of a stream may not call any more. */
function watchCaller(
  deps: StepDeps,
  call: Call,
  onRefused: (error: ConnectError) => void,
): () => void {
  let timer: NodeJS.Timeout | undefined;
  let isStopped = false;
  async function check() {
    try {
      if (call.principal !== undefined) {
        await meetAgain(deps, call, call.principal);
      }
      wait();
    } catch (thrown) {
      onRefused(await explain(deps, call, thrown));
    }
  }
  function wait() {
    if (!isStopped) {
      timer = setTimeout(() => void check(), streamCheckMs).unref();
    }
  }
  wait();
  return () => {
    isStopped = true;
    clearTimeout(timer);
  };
}

function enter(call: Call, principal: Principal | undefined): undefined {
  if (principal !== undefined) {
    call.principal = principal;
  }
  return checkAccess(call.policy, principal);
}

/** Ask the authenticators from the given one on. */
function findPrincipal(deps: StepDeps, call: Call, first: number): ReturnType<Authenticator> {
  const { authenticators } = deps;
  for (let index = first; index < authenticators.length; index++) {
    const found = authenticators[index]?.(call);
    if (found instanceof Promise) {
      return found.then((principal) => principal ?? findPrincipal(deps, call, index + 1));
    }
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

function validate(validator: Validator, request: { desc: DescMessage; message: Message }): void {
  const result = validator.validate(request.desc, request.message);
  if (result.kind === "error") {
    throw result.error;
  }
  if (result.kind === "invalid") {
    throw invalidRequest(result.violations);
  }
  const malformed = malformedFields(request.desc, request.message);
  if (malformed.length > 0) {
    throw invalidArgument(malformed);
  }
}

const violationsMax = 10;
const violationsBytesMax = 1024;

/** INVALID_ARGUMENT with the violations in both standard forms, as far as they fit into headers. */
function invalidRequest(violations: readonly Violation[]): ConnectError {
  const error = invalidArgument(
    violations.map((violation) => ({
      field: pathToString(violation.field),
      description: violation.message,
    })),
  );
  // Their paths hold the keys of maps, which a caller chooses.
  const [value, desc] = violationsToProto(violations.slice(0, violationsMax));
  if (toBinary(desc, value).byteLength <= violationsBytesMax) {
    error.details.push({ desc, value });
  }
  return error;
}
