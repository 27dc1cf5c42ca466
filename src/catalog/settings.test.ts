import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import {
  ApiSettingsSchema,
  DeliveryMode,
} from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { createAddressPolicy } from "../lib/address.ts";
import { checkAddresses, checkSettings, parseSettings, settingsText } from "./settings.ts";

type Init = MessageInitShape<typeof ApiSettingsSchema>;

const full: Init = {
  upstreams: [
    { url: "https://one.example/base", weight: 3 },
    { url: "https://two.example", weight: 0 },
  ],
  testUpstreams: [{ url: "https://test.example", weight: 1 }],
  credential: { provider: "acme", field: "token", header: "authorization", prefix: "Bearer " },
  delivery: DeliveryMode.ASYNC,
  timeout: { seconds: 5n, nanos: 0 },
  retries: 0,
  corsOrigins: ["*", "https://shop.example", "http://localhost:5173"],
  responseBytesMax: 1_000n,
};

test("settings come back from their text; none have none", () => {
  const settings = create(ApiSettingsSchema, full);

  expect(parseSettings(settingsText(settings))).toEqual(settings);
  expect(parseSettings(settingsText(settings)).retries).toBe(0);
  expect(settingsText({})).toBe("");
  expect(parseSettings("")).toEqual(create(ApiSettingsSchema));
});

test("settings of a later version are read without what is new", () => {
  expect(parseSettings('{"retries":2,"surprise":[1]}').retries).toBe(2);
});

test("settings that make sense pass", () => {
  expect(checkSettings(create(ApiSettingsSchema, full))).toEqual([]);
  expect(checkSettings(undefined)).toEqual([]);
});

const credential = { provider: "acme", field: "token", header: "x-token", prefix: "" };

test.for<[string, Init]>([
  ["settings.upstreams", { upstreams: [{ url: "https://a.example", weight: 0 }] }],
  ["settings.test_upstreams", { testUpstreams: [{ url: "https://a.example" }] }],
  ["settings.credential.header", { credential: { ...credential, header: "host" } }],
  ["settings.credential.header", { credential: { ...credential, header: "connection" } }],
  ["settings.credential.header", { credential: { ...credential, header: "content-length" } }],
  ["settings.credential.header", { credential: { ...credential, header: "x-forwarded-for" } }],
  ["settings.credential.header", { credential: { ...credential, header: "x-callora-key" } }],
  ["settings.credential.prefix", { credential: { ...credential, prefix: "a\r\nb: " } }],
  ["settings.cors_origins[1]", { corsOrigins: ["*", "https://a.example/"] }],
  ["settings.cors_origins[0]", { corsOrigins: ["https://A.example"] }],
  ["settings.cors_origins[0]", { corsOrigins: ["https://a.example:443"] }],
  ["settings.cors_origins[0]", { corsOrigins: ["a.example"] }],
  ["settings.cors_origins[0]", { corsOrigins: ["null"] }],
  ["settings.cors_origins[0]", { corsOrigins: ["file:///x"] }],
])("%s is refused: %j", ([field, settings]) => {
  expect(checkSettings(create(ApiSettingsSchema, settings))).toMatchObject([{ field }]);
});

test("every upstream's address is checked, and named where it stands", () => {
  const addresses = createAddressPolicy({ allowedRanges: [], ownPorts: () => [] });
  const settings = create(ApiSettingsSchema, {
    upstreams: [{ url: "https://a.example" }, { url: "http://169.254.169.254/" }],
    testUpstreams: [{ url: "http://[::1]/" }],
  });

  const wrong = checkAddresses({ upstreamUrl: "http://10.0.0.1", settings }, addresses);

  expect(wrong.map(({ field }) => field)).toEqual([
    "upstream_url",
    "settings.upstreams[1].url",
    "settings.test_upstreams[0].url",
  ]);
});
