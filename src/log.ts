import { trace } from "@opentelemetry/api";
import pino from "pino";
import { cut, maskSecrets } from "./log-mask.ts";

/** All that a line may say besides its message. What is not named here does not reach the log. */
// biome-ignore format: a word list reads better in lines by theme.
const fieldNames = [
  "requestId", "traceId", "spanId", "component", "event", "action", "outcome", "state", "reason",
  "method", "route", "path", "url", "protocol", "statusCode", "code", "durationMs", "bytes",
  "clientIp", "accountId", "actorId", "role", "mode", "apiId", "keyId", "endpointId",
  "eventId", "batchId", "jobId", "deliveryId", "providerId", "settlementId", "leaseId", "nodeId",
  "credentialId",
  "attempt", "attemptsMax", "retryAfterMs", "count", "limit", "queueDepth",
  "shard", "offset", "lag", "fence", "amountNanos", "txHash", "ledger", "sequence",
  "host", "port", "file", "version", "environment", "network", "signal", "migration",
] as const;

/** What a line may say besides its message: named scalars, and the error that it is about. */
export type LogFields = {
  readonly [N in (typeof fieldNames)[number]]?:
    | string
    | number
    | bigint
    | boolean
    | Date
    | null
    | undefined;
} & { readonly err?: unknown };

/** Writes lines. The message is a constant sentence; what varies goes into fields. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  fatal(message: string, fields?: LogFields): void;
  /** A logger whose every line also says the fields, as a request's id. */
  child(fields: LogFields): Logger;
}

/** How much is written. */
export type LogLevel = pino.LevelWithSilent;

/** Where lines go. */
export interface LogStream {
  write(line: string): void;
}

/**
 * A logger that writes a JSON object a line, by default to standard output.
 *
 * Fields pass only by name, and only scalars: a list of what to hide forgets something, as the
 * capital letter of `Authorization`, an error's `config.headers` or a URL's query. In what passes,
 * and in messages and stacks, all that looks like a secret is masked.
 */
export function createLogger({ level, stream }: { level: LogLevel; stream?: LogStream }): Logger {
  const options: pino.LoggerOptions = {
    level,
    base: { pid: process.pid },
    messageKey: "message",
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }), log: toFields },
    // The values are ready, and pino's own serializer of `err` would add what is not named.
    serializers: { err: (error: unknown) => error },
    mixin: traceFields,
  };
  return wrap(stream === undefined ? pino(options) : pino(options, stream), {});
}

/** The fields are merged here, not by pino: its children skip the formatter. */
function wrap(base: pino.Logger, bound: LogFields): Logger {
  function write(level: pino.Level, message: string, fields?: LogFields): void {
    if (base.isLevelEnabled(level)) {
      base[level]({ ...bound, ...fields }, cut(maskSecrets(message), textLengthMax));
    }
  }
  return {
    debug: (message, fields) => write("debug", message, fields),
    info: (message, fields) => write("info", message, fields),
    warn: (message, fields) => write("warn", message, fields),
    error: (message, fields) => write("error", message, fields),
    fatal: (message, fields) => write("fatal", message, fields),
    child: (fields) => wrap(base, { ...bound, ...fields }),
  };
}

function traceFields(): LogFields {
  const span = trace.getActiveSpan()?.spanContext();
  return span === undefined ? {} : { traceId: span.traceId, spanId: span.spanId };
}

const allowed: ReadonlySet<string> = new Set(fieldNames);

/** The fields that may be written, as they may be written. Counts the others. */
function toFields(fields: Record<string, unknown>): Record<string, unknown> {
  const written: Record<string, unknown> = {};
  let dropped = 0;
  for (const [name, value] of Object.entries(fields)) {
    if (name === "err" && value !== undefined) {
      written.err = toError(value, causesMax);
      continue;
    }
    const scalar = allowed.has(name) ? toScalar(value) : undefined;
    if (scalar !== undefined) {
      written[name] = scalar;
    } else if (value !== undefined) {
      dropped++;
    }
  }
  return dropped > 0 ? { ...written, dropped } : written;
}

const textLengthMax = 4_096;

/** Undefined: not a scalar. */
function toScalar(value: unknown): string | number | boolean | null | undefined {
  if (typeof value === "string") {
    return cut(maskSecrets(value), textLengthMax);
  }
  if (typeof value === "bigint") {
    return String(value);
  }
  if (value instanceof Date) {
    return value.toJSON();
  }
  return typeof value === "number" || typeof value === "boolean" || value === null
    ? value
    : undefined;
}

const causesMax = 5;
const errorsMax = 5;

/**
 * What is said of an error: never its other properties, which may hold headers, configuration or
 * rows.
 */
function toError(error: unknown, depth: number): Record<string, unknown> {
  if (!(error instanceof Error)) {
    return { type: typeof error, message: toScalar(error) ?? "not an error" };
  }
  const { name, message, stack, cause } = error;
  const code = "code" in error ? toScalar(error.code) : undefined;
  const inner = error instanceof AggregateError ? error.errors.slice(0, errorsMax) : [];
  return {
    type: toScalar(name),
    message: toScalar(message),
    ...(code === undefined ? {} : { code }),
    stack: toScalar(stack),
    ...(cause === undefined || depth <= 1 ? {} : { cause: toError(cause, depth - 1) }),
    ...(inner.length === 0 || depth <= 1
      ? {}
      : { errors: inner.map((one) => toError(one, depth - 1)) }),
  };
}
