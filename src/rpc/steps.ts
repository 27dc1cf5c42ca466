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
import { invalidArgument, rateLimited, toConnectError } from "./errors.ts";
import { type Limiter, type Rate, rates } from "./limiter.ts";
import { methodName, type Policy } from "./policy.ts";
import { type Authenticator, checkAccess } from "./principal.ts";
import { malformedFields } from "./well-formed.ts";

/** One step around a call. Runs `next` once, or throws. */
type Step = <T>(call: Call, next: () => Promise<T>) => Promise<T>;

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
  const gate = [telemetry, errors(deps), auditRefusals(deps), authenticate(deps), limit(deps)];
  const around = [
    telemetry,
    errors(deps),
    auditRefusals(deps),
    auditSuccess,
    validate(createValidator()),
  ];
  return {
    admit: (call) => runSteps(gate, call, async () => {}),
    around: (call, handler) => runSteps(around, call, handler),
  };
}

function runSteps<T>(steps: readonly Step[], call: Call, handler: () => Promise<T>): Promise<T> {
  function from(index: number): Promise<T> {
    const step = steps[index];
    return step === undefined ? handler() : step(call, () => from(index + 1));
  }
  return from(0);
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

async function telemetry<T>(_call: Call, next: () => Promise<T>): Promise<T> {
  const span = trace.getActiveSpan();
  try {
    return await next();
  } catch (error) {
    const { code } = toConnectError(error);
    span?.setAttribute("rpc.status_code", Code[code]);
    if (code === Code.Internal || code === Code.Unknown || code === Code.DataLoss) {
      span?.setStatus({ code: SpanStatusCode.ERROR });
    }
    throw error;
  }
}

function errors({ onInternalError }: StepDeps): Step {
  return async (call, next) => {
    try {
      return await next();
    } catch (thrown) {
      const error = toConnectError(thrown);
      if (error.cause !== undefined) {
        onInternalError(call, error);
      }
      throw error;
    }
  };
}

/** Codes that say the caller was not allowed to. */
const refusals = new Set([Code.Unauthenticated, Code.PermissionDenied]);

/** Refusals of one address that are written down. Without a limit strangers could fill the audit log. */
const refusalRate: Rate = { intervalMs: 500, burst: 120 };

function auditRefusals({ auditRefusal, limiter, now }: StepDeps): Step {
  return async (call, next) => {
    try {
      return await next();
    } catch (thrown) {
      const error = toConnectError(thrown);
      if (call.policy.auditAction !== "" && refusals.has(error.code)) {
        const address = addressBlock(call.exchange.clientIp);
        const verdict = limiter.take(`refusal:${address}`, refusalRate, now());
        if (!verdict.allowed) {
          throw rateLimited(verdict.retryAfterMs);
        }
        await auditRefusal(call, error);
      }
      throw error;
    }
  };
}

async function auditSuccess<T>(call: Call, next: () => Promise<T>): Promise<T> {
  const result = await next();
  if (call.policy.auditAction !== "" && !call.audited) {
    throw new Error(`Cannot answer ${call.name}: its change is not in the audit log`);
  }
  return result;
}

function authenticate({ authenticators }: StepDeps): Step {
  return async (call, next) => {
    if (call.policy.access !== Access.METRICS_KEY) {
      for (const authenticator of authenticators) {
        const principal = await authenticator(call);
        if (principal !== undefined) {
          call.principal = principal;
          break;
        }
      }
      checkAccess(call.policy.access, call.principal);
    }
    return next();
  };
}

/** Classes that count addresses even when the caller is known. */
const byAddress: ReadonlySet<RateClass> = new Set<RateClass>([RateClass.LOGIN, RateClass.VERIFY]);

function limit({ limiter, now }: StepDeps): Step {
  return async (call, next) => {
    const rate = rates[call.policy.rateClass];
    if (rate === undefined) {
      return next();
    }
    const principal = byAddress.has(call.policy.rateClass) ? undefined : call.principal;
    const caller = principal?.id ?? addressBlock(call.exchange.clientIp);
    const verdict = limiter.take(`${call.policy.rateClass}:${caller}`, rate, now());
    call.exchange.setHeader("x-ratelimit-limit", String(verdict.limit));
    call.exchange.setHeader("x-ratelimit-remaining", String(verdict.remaining));
    call.exchange.setHeader("x-ratelimit-reset", String(Math.ceil(verdict.resetMs / 1000)));
    if (!verdict.allowed) {
      call.exchange.setHeader("retry-after", String(Math.ceil(verdict.retryAfterMs / 1000)));
      throw rateLimited(verdict.retryAfterMs);
    }
    return next();
  };
}

/** An IPv4 address, or the /64 of an IPv6 one: whoever has one address of it has them all. */
function addressBlock(ip: string): string {
  if (!ip.includes(":") || ip.startsWith("::ffff:")) {
    return ip;
  }
  return ip.split(":").slice(0, 4).join(":");
}

function validate(validator: Validator): Step {
  return async (call, next) => {
    if (call.request === undefined) {
      return next();
    }
    const result = validator.validate(call.request.desc, call.request.message);
    if (result.kind === "error") {
      throw result.error;
    }
    if (result.kind === "invalid") {
      throw invalidRequest(result.violations);
    }
    const malformed = malformedFields(call.request.desc, call.request.message);
    if (malformed.length > 0) {
      throw invalidArgument(malformed);
    }
    return next();
  };
}

/** INVALID_ARGUMENT with the violations in both standard forms. */
function invalidRequest(violations: readonly Violation[]): ConnectError {
  const error = invalidArgument(
    violations.map((violation) => ({
      field: pathToString(violation.field),
      description: violation.message,
    })),
  );
  const [value, desc] = violationsToProto([...violations]);
  error.details.push({ desc, value });
  return error;
}
