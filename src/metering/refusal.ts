import { AssertionError } from "node:assert";
import { SchemaValidationError } from "slonik";
import type { Refusal } from "./bisect.ts";

/** Values that a column refuses, broken constraints, values beyond a limit, and what a trigger raises. */
const refusedStates = /^(?:22|23|54|P0)[0-9A-Z]{3}$/;
/** No SQLSTATE begins with E; names of the system's errors do, and some have five letters too, as EPIPE. */
const statePattern = /^[0-9A-DF-Z][0-9A-Z]{4}$/;
/** slonik gives these errors a class instead of the code. */
const invalidInputState = "22P02";

const detailLengthMax = 200;

/**
 * Tell what will fail again however often it is tried from what may pass: null for an error of the connection, of
 * another transaction, of a full disk, or one that is not known.
 */
export function asRefusal(error: unknown): Refusal | null {
  if (
    error instanceof TypeError ||
    error instanceof RangeError ||
    error instanceof AssertionError ||
    error instanceof SchemaValidationError
  ) {
    return { detail: `the server failed: ${error.name}` };
  }
  const state = findState(error);
  if (state === undefined || !refusedStates.test(state)) {
    return null;
  }
  const constraint = findText(error, "constraint");
  const rest = constraint === undefined ? "" : `, constraint ${constraint}`;
  return { detail: `the database refused it: ${state}${rest}`.slice(0, detailLengthMax) };
}

/** Connections that end, commits of which nobody knows, and sessions that are ended: perhaps after their commit. */
const doubtfulStates = /^(?:08...|40003|57...)$/;

/** Whether the database itself said that a statement failed: then nothing of it is there. */
export function isDenied(error: unknown): boolean {
  const state = findState(error);
  return state !== undefined && !doubtfulStates.test(state);
}

/** The SQLSTATE of an error, or of what caused it. */
function findState(error: unknown): string | undefined {
  if (!(error instanceof Error)) {
    return undefined;
  }
  const code = Reflect.get(error, "code");
  if (typeof code === "string" && statePattern.test(code)) {
    return code;
  }
  return error.constructor.name === "InvalidInputError"
    ? invalidInputState
    : findState(error.cause);
}

function findText(error: unknown, name: string): string | undefined {
  const value = error instanceof Error ? Reflect.get(error, name) : undefined;
  return typeof value === "string" ? value : undefined;
}
