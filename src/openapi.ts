import contract from "../gen/openapi.json" with { type: "json" };
import { addPaths, type OpenapiDocument, type PathItem } from "./edge/docs.ts";
import { authPaths } from "./openapi-auth.ts";

/** The description of everything that people call: the contract's operations and the plain routes. */
export function describeApi(): OpenapiDocument {
  return addPaths(contract, { ...plainPaths, ...authPaths() });
}

const requestId = { "X-Request-Id": { $ref: "#/components/headers/RequestId" } };

const errors = { default: { $ref: "#/components/responses/Error" } };

function call(method: string, bodyIsRead: boolean) {
  const text = { type: "string" };
  return {
    tags: ["Gateway"],
    summary: "Call a published API",
    description:
      "Passes the request on to the API's upstream, and its reply back. The call is metered and " +
      "charged to the key's account; a reply of status 500 and above is free.\n\n" +
      "Access: The holder of an API key.\n\nRate limit: 100 a minute for each API key.",
    operationId: `Gateway_Call_${method}`,
    parameters: [
      { name: "api", in: "path", required: true, description: "Its id or slug.", schema: text },
      {
        name: "path",
        in: "path",
        required: true,
        description: "The path of the upstream. May hold slashes, sent as they are.",
        schema: text,
      },
    ],
    ...(bodyIsRead && {
      requestBody: { content: { "*/*": { schema: { type: "string", format: "binary" } } } },
    }),
    responses: {
      "2XX": {
        description: "The upstream's reply.",
        headers: {
          ...requestId,
          "X-Callora-Charged-Nanos": {
            description: "What the call cost, in nano-USDC.",
            schema: { type: "string", format: "int64" },
          },
        },
        content: { "*/*": { schema: { type: "string", format: "binary" } } },
      },
      402: { $ref: "#/components/responses/Error" },
      429: { $ref: "#/components/responses/TooManyRequests" },
      ...errors,
    },
    security: [{ apiKeyHeader: [] }, { bearerAuth: [] }],
    "x-callora-access": "API_KEY",
    "x-callora-rate-class": "V1",
  };
}

/** The routes that are no RPC. */
const plainPaths: Readonly<Record<string, PathItem>> = {
  "/v1/call/{api}/{path}": {
    get: call("get", false),
    put: call("put", true),
    post: call("post", true),
    delete: call("delete", false),
    patch: call("patch", true),
  },
  "/v1/events": {
    post: {
      tags: ["MeteringService"],
      summary: "Record usage as CloudEvents",
      description:
        "CloudEvents 1.0 over HTTP: one event (structured, or binary with `ce-` headers) or a batch of up to 500. " +
        "`subject` is the account; the extensions `apiid`, `endpoint`, `statuscode`, `units` and `testmode` say the " +
        "rest; `data` is a JSON object. `?partial=true` records what is valid, `?wait=2s` waits for what became of " +
        "the events. The answer is that of RecordUsage.",
      operationId: "Events_Record",
      requestBody: {
        content: {
          "application/cloudevents+json": { schema: { type: "object" } },
          "application/cloudevents-batch+json": {
            schema: { type: "array", maxItems: 500, items: { type: "object" } },
          },
          "application/json": { schema: { type: "object" } },
        },
      },
      responses: {
        202: {
          description: "Durable.",
          headers: requestId,
          content: {
            "application/json": {
              schema: { $ref: "#/components/schemas/callora.metering.v1.RecordUsageResponse" },
            },
          },
        },
        ...errors,
      },
      security: [{ bearerAuth: [] }],
      "x-callora-access": "SERVICE",
      "x-callora-rate-class": "INTERNAL",
    },
  },
  "/v1/usage/events/socket": {
    get: {
      tags: ["MeteringService"],
      summary: "Watch events over a WebSocket",
      description:
        "WatchEvents for pages: each answer is a text message of JSON. Without an upgrade 426 is answered. The " +
        "protocols are `callora.v1` and, for a credential, `bearer.TOKEN`.",
      operationId: "Events_Watch",
      parameters: [
        {
          name: "resume_token",
          in: "query",
          description: "That of the last answer that was handled.",
          schema: { type: "string" },
        },
      ],
      responses: { 101: { description: "The WebSocket is open." }, ...errors },
      security: [{ bearerAuth: [] }],
      "x-callora-access": "USER_OR_API_KEY",
      "x-callora-rate-class": "V1",
    },
  },
  "/v1/credits/invoices/{month}/page": {
    get: {
      tags: ["InvoiceService"],
      summary: "Get an invoice as a page",
      description: "What GetInvoice answers, to be read or printed. The page runs no script.",
      operationId: "Invoices_Page",
      parameters: [
        {
          name: "month",
          in: "path",
          required: true,
          description: "The month, for example `2026-11`.",
          schema: { type: "string" },
        },
        {
          name: "test",
          in: "query",
          description: "That of test calls.",
          schema: { type: "boolean" },
        },
      ],
      responses: {
        200: {
          description: "OK",
          headers: requestId,
          content: { "text/html": { schema: { type: "string" } } },
        },
        404: { $ref: "#/components/responses/Error" },
        429: { $ref: "#/components/responses/TooManyRequests" },
        ...errors,
      },
      security: [{ bearerAuth: [] }],
      "x-callora-access": "USER",
      "x-callora-rate-class": "V1",
    },
  },
  "/api/metrics": {
    get: {
      tags: ["Metrics"],
      summary: "Read the metrics of the server",
      description: "In the text format of Prometheus. Open outside production.",
      operationId: "Metrics_Read",
      responses: {
        200: {
          description: "OK",
          headers: requestId,
          content: { "text/plain": { schema: { type: "string" } } },
        },
        ...errors,
      },
      security: [{ bearerAuth: [] }],
      "x-callora-access": "METRICS_KEY",
      "x-callora-rate-class": "NONE",
    },
  },
};
