import { toBinary } from "@bufbuild/protobuf";
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
import { Access, RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { type Call, callKey, callOf, exchangeKey } from "./call.ts";
import { completeError, invalidArgument, rateLimited, toConnectError } from "./errors.ts";
import { type Limiter, type Rate, rates } from "./limiter.ts";
import { methodName, type Policy } from "./policy.ts";
import { type Authenticator, checkAccess } from "./principal.ts";
import { malformedFields } from "./well-formed.ts";

/** What the steps need and may not import. */
export interface StepDeps {
  authenticators: readonly Authenticator[];
  limiter: Limiter;
  now: () => Date;
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
  admit(call: Call): Promise<void>;
  /** Around the handler, outermost first: telemetry, errors, audit, validate. */
  around<T>(call: Call, handler: () => Promise<T>): Promise<T>;
}

/** Make the steps. */
export function createSteps(deps: StepDeps): Steps {
  const validator = createValidator();
  return {
    async admit(call) {
      try {
        await authenticate(deps, call);
        limit(deps, call);
      } catch (thrown) {
        throw await explain(deps, call, thrown);
      }
    },
    async around(call, handler) {
      try {
        validate(validator, call);
        const result = await handler();
        requireAudit(call);
        return result;
      } catch (thrown) {
        throw await explain(deps, call, thrown);
      }
    },
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
    }
    return steps.around(call, () => next(req));
  };
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
const refusalRate: Rate = { intervalMs: 500, burst: 120 };

async function auditRefusal(deps: StepDeps, call: Call, error: ConnectError): Promise<void> {
  if (call.policy.auditAction === "" || !refusals.has(error.code)) {
    return;
  }
  const address = addressBlock(call.exchange.clientIp);
  const verdict = deps.limiter.take(`refusal:${address}`, refusalRate, deps.now());
  if (!verdict.allowed) {
    throw rateLimited(verdict.retryAfterMs);
  }
  await deps.auditRefusal(call, error);
}

function requireAudit(call: Call): void {
  if (call.policy.auditAction !== "" && !call.audited) {
    throw new Error(`Cannot answer ${call.name}: its change is not in the audit log`);
  }
}

async function authenticate({ authenticators }: StepDeps, call: Call): Promise<void> {
  const { access } = call.policy;
  if (access === Access.METRICS_KEY) {
    return;
  }
  for (const authenticator of authenticators) {
    const principal = await authenticator(call);
    if (principal !== undefined) {
      call.principal = principal;
      break;
    }
  }
  checkAccess(call.policy, call.principal);
}

/** Classes that count addresses even when the caller is known. */
const byAddress: ReadonlySet<RateClass> = new Set<RateClass>([RateClass.LOGIN, RateClass.VERIFY]);

function limit({ limiter, now }: StepDeps, call: Call): void {
  const { rateClass } = call.policy;
  const rate = rates[rateClass];
  if (rate === undefined) {
    return;
  }
  const principal = byAddress.has(rateClass) ? undefined : call.principal;
  const caller = principal?.id ?? addressBlock(call.exchange.clientIp);
  const verdict = limiter.take(`${rateClass}:${caller}`, rate, now());
  call.exchange.setHeader("x-ratelimit-limit", String(verdict.limit));
  call.exchange.setHeader("x-ratelimit-remaining", String(verdict.remaining));
  call.exchange.setHeader("x-ratelimit-reset", String(Math.ceil(verdict.resetMs / 1000)));
  if (!verdict.allowed) {
    call.exchange.setHeader("retry-after", String(Math.ceil(verdict.retryAfterMs / 1000)));
    throw rateLimited(verdict.retryAfterMs);
  }
}

/** An IPv4 address, or the /64 of an IPv6 one: whoever has one address of it has them all. */
function addressBlock(ip: string): string {
  if (!ip.includes(":") || ip.startsWith("::ffff:")) {
    return ip;
  }
  return ip.split(":").slice(0, 4).join(":");
}

function validate(validator: Validator, { request }: Call): void {
  if (request === undefined) {
    return;
  }
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
