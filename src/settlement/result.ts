import { xdr } from "@stellar/stellar-sdk/base";
import { z } from "zod";

/** The part of a result's JSON form (SEP-51) that tells payments apart. */
const failedResult = z.object({
  result: z.object({
    tx_failed: z.array(
      z.union([
        z.object({ op_inner: z.object({ payment: z.string() }) }),
        z.string(),
        z.record(z.string(), z.unknown()),
      ]),
    ),
  }),
});

/** Codes that lie with who is paid. The payout is held; the others go on. */
const payeeCodes: Readonly<Record<string, string>> = {
  no_destination: "DESTINATION_MISSING",
  no_trust: "TRUSTLINE_MISSING",
  not_authorized: "TRUSTLINE_NOT_AUTHORIZED",
  line_full: "TRUSTLINE_FULL",
};

/**
 * Why each payment of a failed transaction failed on the payee's side; null for the others.
 *
 * Empty when the transaction did not fail in its payments: then no payee is to blame.
 */
export function payeeFaults(resultXdr: string): (string | null)[] {
  const json: unknown = JSON.parse(
    JSON.stringify(xdr.TransactionResult.fromXdr(resultXdr, "base64")),
  );
  const parsed = failedResult.safeParse(json);
  if (!parsed.success) {
    return [];
  }
  return parsed.data.result.tx_failed.map((operation) => {
    const isPayment = typeof operation === "object" && "op_inner" in operation;
    const { payment } = isPayment ? (operation.op_inner as { payment?: string }) : {};
    return payeeCodes[payment ?? ""] ?? null;
  });
}
