import type { xdr } from "@stellar/stellar-sdk/base";
import { accountOf, addressOf, type Envelope } from "./envelope.ts";
import { feeSource } from "./ledger.ts";
import { operationSource } from "./operations.ts";
import type { TransactionRecord } from "./record.ts";
import {
  isSuccess,
  type OperationKind,
  type Outcome,
  operationResults,
  resultCodes,
  resultXdr,
} from "./result.ts";

/** Make the log's record of an applied envelope. */
export function toTransactionRecord(envelope: Envelope, outcome: Outcome): TransactionRecord {
  const { transaction, feeBump } = envelope;
  const accounts = [...new Set([feeSource(envelope), transaction.source])];
  const indexOf = (account: string) => {
    const known = accounts.indexOf(account);
    return known >= 0 ? known : accounts.push(account) - 1;
  };
  const operations = transaction.operations.map((operation) => {
    const taking = new Set(participants(operation, transaction.source));
    return [
      operationResults[operation.body.type as OperationKind].type,
      ...[...taking].map(indexOf),
    ];
  });
  return {
    hash: envelope.hash,
    innerHash: feeBump ? transaction.hash.toString("hex") : null,
    envelope: envelope.base64,
    result: resultXdr(outcome),
    codes: isSuccess(outcome) ? null : resultCodes(outcome),
    feeCharged: outcome.feeCharged,
    feeMax: feeBump?.fee ?? transaction.fee,
    accounts,
    operations,
  };
}

function participants(operation: xdr.Operation, source: string): string[] {
  const { body } = operation;
  const from = operationSource(operation, source);
  if (body.type === "createAccount") return [from, addressOf(body.createAccountOp.destination)];
  if (body.type === "payment") return [from, accountOf(body.paymentOp.destination)];
  if (body.type === "accountMerge") return [from, accountOf(body.destination)];
  if (body.type === "setTrustLineFlags") {
    return [from, addressOf(body.setTrustLineFlagsOp.trustor)];
  }
  return [from];
}
