import { create, fromJsonString, type MessageInitShape, toJsonString } from "@bufbuild/protobuf";
import {
  type ApiSettings,
  ApiSettingsSchema,
  type Upstream,
  type UpstreamCredential,
} from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import type { AddressPolicy } from "../lib/address.ts";
import type { Violation } from "../rpc/errors.ts";
import { checkUpstream } from "./upstream-address.ts";

/** Where the settings' upstreams stand in the request. */
const upstreamFields = ["upstreams", "test_upstreams"] as const;

/** A request that says where calls go. */
export interface AddressedRequest {
  upstreamUrl?: string | undefined;
  settings?: ApiSettings | undefined;
}

/** What is wrong with the address in `upstream_url`, where there is one, and in the settings. */
export function checkAddresses(
  { upstreamUrl, settings }: AddressedRequest,
  addresses: AddressPolicy,
): Violation[] {
  const own =
    upstreamUrl === undefined
      ? []
      : checkUpstream(upstreamUrl, { field: "upstream_url", addresses });
  if (settings === undefined) {
    return own;
  }
  const lists = { upstreams: settings.upstreams, test_upstreams: settings.testUpstreams };
  const listed = upstreamFields.flatMap((name) =>
    lists[name].flatMap(({ url }, index) =>
      checkUpstream(url, { field: `settings.${name}[${index}].url`, addresses }),
    ),
  );
  return [...own, ...listed];
}

/** What is wrong with settings, besides addresses. */
export function checkSettings(settings: ApiSettings | undefined): Violation[] {
  if (settings === undefined) {
    return [];
  }
  const { upstreams, testUpstreams, credential, corsOrigins } = settings;
  return [
    ...checkWeights(upstreams, "settings.upstreams"),
    ...checkWeights(testUpstreams, "settings.test_upstreams"),
    ...(credential === undefined ? [] : checkCredential(credential)),
    ...corsOrigins.flatMap((origin, index) =>
      origin === "*" || isOrigin(origin)
        ? []
        : [{ field: `settings.cors_origins[${index}]`, description: "must be * or an origin" }],
    ),
  ];
}

function checkWeights(list: readonly Upstream[], field: string): Violation[] {
  const isUseless = list.length > 0 && list.every(({ weight }) => weight === 0);
  return isUseless ? [{ field, description: "must have one with a weight above zero" }] : [];
}

/** What the gateway, or the connection, sets itself. */
const ownHeaders = new Set([
  "accept-encoding",
  "connection",
  "content-encoding",
  "content-length",
  "content-type",
  "expect",
  "forwarded",
  "host",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "traceparent",
  "tracestate",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "x-request-id",
]);
const ownHeaderPrefix = /^(?:x-forwarded|x-callora|sec-websocket)-/;
const printable = /^[\x20-\x7e]*$/;

function checkCredential({ header, prefix }: UpstreamCredential): Violation[] {
  const violations: Violation[] = [];
  if (ownHeaders.has(header) || ownHeaderPrefix.test(header)) {
    const description = "is a header that the gateway sets itself";
    violations.push({ field: "settings.credential.header", description });
  }
  if (!printable.test(prefix)) {
    const description = "must be printable ASCII characters";
    violations.push({ field: "settings.credential.prefix", description });
  }
  return violations;
}

/** As a browser writes it: that is what it is compared with. */
function isOrigin(text: string): boolean {
  const url = URL.parse(text);
  return (url?.protocol === "https:" || url?.protocol === "http:") && url.origin === text;
}

/** The text that settings are stored as. */
export function settingsText(settings: MessageInitShape<typeof ApiSettingsSchema>): string {
  const text = toJsonString(ApiSettingsSchema, create(ApiSettingsSchema, settings));
  return text === "{}" ? "" : text;
}

/** The settings of a text that settingsText() made, here or in another version of the server. */
export function parseSettings(text: string): ApiSettings {
  return text === ""
    ? create(ApiSettingsSchema)
    : fromJsonString(ApiSettingsSchema, text, { ignoreUnknownFields: true });
}
