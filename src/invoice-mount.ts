import { Access, RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { invoicePage, invoicePagePolicy } from "./credits/invoice-page.ts";
import { getInvoice, type InvoiceServiceDeps } from "./credits/invoice-service.ts";
import { sendReply } from "./edge/http-message.ts";
import type { Mount } from "./edge/mount.ts";
import { splitTarget } from "./edge/rest/path.ts";
import { invalidArgument, unauthenticated } from "./rpc/errors.ts";

/** The page of an invoice, to be printed: what GetInvoice answers, without any script. `?test=true`: of test calls. */
export function invoiceMount(deps: InvoiceServiceDeps): Mount {
  return {
    method: "GET",
    pattern: "/v1/credits/invoices/{month}/page",
    policy: {
      access: Access.USER,
      auditAction: "",
      rateClass: RateClass.V1,
      successStatus: 0,
    },
    async handler(_request, _response, { call, arrival, params }) {
      if (call.principal === undefined) {
        throw unauthenticated();
      }
      const { accountId } = call.principal;
      const month = readMonth(params.month ?? "");
      const test = readTest(splitTarget(arrival.url).query);
      const invoice = await getInvoice(deps, { accountId, month, test });
      sendReply(arrival, {
        status: 200,
        headers: {
          "content-type": "text/html; charset=utf-8",
          "content-security-policy": invoicePagePolicy,
          "x-content-type-options": "nosniff",
          "cache-control": "no-store",
        },
        body: invoicePage(invoice, accountId),
      });
    },
  };
}

function readMonth(month: string): string {
  if (!/^[12]\d{3}-(?:0[1-9]|1[0-2])$/.test(month)) {
    throw invalidArgument([{ field: "month", description: "must be a month, such as 2026-11" }]);
  }
  return month;
}

function readTest(query: string): boolean {
  const test = new URLSearchParams(query).get("test") ?? "false";
  if (test !== "true" && test !== "false") {
    throw invalidArgument([{ field: "test", description: "must be true or false" }]);
  }
  return test === "true";
}
