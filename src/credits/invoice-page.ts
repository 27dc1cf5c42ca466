import { createHash } from "node:crypto";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import {
  type Invoice,
  type InvoiceLine,
  InvoiceState,
} from "../../gen/callora/credits/v1/invoice_service_pb.ts";

const style = `
body { font: 14px/1.5 system-ui, sans-serif; color: #111; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
table { border-collapse: collapse; width: 100%; margin-top: 1.5rem; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .5rem; text-align: left; vertical-align: top; }
.amount { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.note { color: #555; }
.draft { color: #a00; font-weight: bold; }
code { font-size: .8rem; color: #555; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } thead { display: table-header-group; } tr { break-inside: avoid; } }
`;

/** What a browser may load for an invoice's page: its own style, and nothing else. It runs no script. */
export const invoicePagePolicy: string = [
  "default-src 'none'",
  `style-src 'sha256-${createHash("sha256").update(style).digest("base64")}'`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** An invoice as a page that can be printed. Whatever somebody chose the text of is escaped. */
export function invoicePage(invoice: Invoice, accountId: string): string {
  const title = invoice.number === "" ? `Draft for ${invoice.month}` : `Invoice ${invoice.number}`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escaped(title)}</title>
<style>${style}</style>
</head>
<body>
<h1>${escaped(title)}</h1>
${heading(invoice, accountId)}
<table>
<thead>
<tr><th>API</th><th class="amount">Price version</th><th class="amount">Calls</th><th class="amount">Units</th>\
<th class="amount">Charged</th><th class="amount">Corrected</th></tr>
</thead>
<tbody>
${invoice.lines.map(lineRow).join("\n")}
</tbody>
</table>
<table>
<tbody>
${sumRows(invoice)}
</tbody>
</table>
<p class="note">Amounts are in USDC. The journal was applied up to position ${invoice.watermark}.</p>
</body>
</html>
`;
}

function heading(invoice: Invoice, accountId: string): string {
  const { month, state, issueTime, test } = invoice;
  const issued = issueTime === undefined ? "" : timestampDate(issueTime).toISOString().slice(0, 10);
  const parts = [
    `Callora, ${escaped(month)} (UTC)`,
    `Account <code>${escaped(accountId)}</code>`,
    ...(issued === "" ? [] : [`Issued on ${issued}`]),
    ...(state === InvoiceState.DRAFT
      ? ['<span class="draft">Draft: it can still change</span>']
      : []),
    ...(test ? ['<span class="draft">Test calls: nothing of it is real money</span>'] : []),
  ];
  return `<p>${parts.join("<br>\n")}</p>`;
}

function lineRow(line: InvoiceLine): string {
  const { apiId, apiName, priceVersion, calls, units, chargedNanos, correctedNanos } = line;
  const cells = [
    `${priceVersion}`,
    `${calls}`,
    `${units}`,
    usdc(chargedNanos),
    usdc(correctedNanos),
  ];
  const amounts = cells.map((cell) => `<td class="amount">${cell}</td>`).join("");
  return `<tr><td>${escaped(apiName)}<br><code>${escaped(apiId)}</code></td>${amounts}</tr>`;
}

function sumRows(invoice: Invoice): string {
  const rows: [string, bigint][] = [
    ["Balance at the beginning", invoice.openingNanos],
    ["Credited", invoice.creditedNanos],
    ["Adjusted", invoice.adjustedNanos],
    ["Charged", -invoice.chargedNanos],
    ["Expired", -invoice.expiredNanos],
    ["Refunded", -invoice.refundedNanos],
    ["Balance at the end", invoice.closingNanos],
  ];
  return rows
    .map(([name, nanos]) => `<tr><th>${name}</th><td class="amount">${usdc(nanos)}</td></tr>`)
    .join("\n");
}

/** An amount in nano-USDC with all of its nine digits. */
function usdc(nanos: bigint): string {
  const digits = (nanos < 0n ? -nanos : nanos).toString().padStart(10, "0");
  return `${nanos < 0n ? "−" : ""}${digits.slice(0, -9)}.${digits.slice(-9)}`;
}

const entities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? "");
}
