import type { xdr } from "@stellar/stellar-sdk/base";
import { accountRules } from "./account-operations.ts";
import { accountOf } from "./envelope.ts";
import type { OperationContext, Rule } from "./operation-rule.ts";
import { paymentRules } from "./payment-operations.ts";
import { type OperationKind, type OperationOutcome, operationResults } from "./result.ts";
import type { Level } from "./signatures.ts";

const rules: { [K in OperationKind]: Rule<K> } = { ...paymentRules, ...accountRules };

/** The account that an operation acts for. */
export function operationSource(operation: xdr.Operation, transactionSource: string): string {
  return operation.sourceAccount ? accountOf(operation.sourceAccount) : transactionSource;
}

/** How much signing weight an operation needs. */
export function operationLevel({ body }: xdr.Operation): Level {
  return ruleOf(body)?.level(body) ?? "medium";
}

/** Judge an operation by itself. */
export function checkOperation({ body }: xdr.Operation, source: string): OperationOutcome {
  const rule = ruleOf(body);
  return outcome(body, rule ? rule.check(body, source) : "op_not_supported");
}

/** Apply a checked operation. */
export function applyOperation(
  { body }: xdr.Operation,
  context: OperationContext,
): OperationOutcome {
  const rule = ruleOf(body);
  if (!rule) return outcome(body, "op_not_supported");
  const applied = rule.apply(body, context);
  return typeof applied === "string" ? outcome(body, applied) : { kind: body.type, ...applied };
}

/** The outcome of an operation that nothing was found wrong with. */
export function untouchedOutcome({ body }: xdr.Operation): OperationOutcome {
  return outcome(body, ruleOf(body) ? "op_success" : "op_not_supported");
}

/** An outcome of an operation with the given code. */
export function outcome(body: xdr.OperationBody, code: string): OperationOutcome {
  if (body.type === "accountMerge" && code === "op_success") {
    return { kind: body.type, code, balance: 0n };
  }
  return { kind: body.type, code };
}

// The compiler cannot see that the key and the argument of a rule belong together.
function ruleOf(body: xdr.OperationBody): Rule<string> | undefined {
  if (!Object.hasOwn(operationResults, body.type)) return undefined;
  return rules[body.type as OperationKind] as unknown as Rule<string>;
}
