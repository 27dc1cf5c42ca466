import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { ServiceTokenService } from "../gen/callora/accounts/v1/service_token_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { VerifyCode } from "../gen/callora/keys/v1/verification_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { serviceScopes } from "../src/cli/services.ts";
import { methodPolicy } from "../src/rpc/policy.ts";
import { type startTestApp, until } from "./support/app.ts";
import { contractMethods } from "./support/contract.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeServiceToken } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

function grpc(app: App, token: string) {
  return createGrpcTransport({
    baseUrl: app.url,
    interceptors: [
      (next) => (req) => {
        req.header.set("authorization", `Bearer ${token}`);
        return next(req);
      },
    ],
  });
}

const codeOf = (error: unknown) => ConnectError.from(error).code;

test("a service may do what its scopes say over gRPC, and nothing else", async ({ app }) => {
  const verifier = await makeServiceToken(app.db, ["keys.verify"]);
  const recorder = await makeServiceToken(app.db, ["usage.record"]);
  const outcomes = async ({ token }: { token: string }) => {
    const transport = grpc(app, token);
    const verified = createClient(KeyService, transport).verifyKey({ secret: "x" });
    const recorded = createClient(MeteringService, transport).recordUsage({ events: [] });
    const watermark = createClient(MeteringService, transport).getWatermark({});
    const asPerson = createClient(AuthService, transport).getMe({});
    return Promise.all(
      [verified, recorded, watermark, asPerson].map((one) => one.then(() => "done", codeOf)),
    );
  };

  const denied = Code.PermissionDenied;
  expect(await outcomes(verifier)).toEqual(["done", denied, denied, denied]);
  // An empty list is refused for what it is, once the service is let in.
  expect(await outcomes(recorder)).toEqual([denied, Code.InvalidArgument, denied, denied]);
});

test("a service's verdict on a key is the one that an admin gets", async ({ app }) => {
  const { token } = await makeServiceToken(app.db, ["keys.verify"]);
  const api = await app.api(await newPerson(app.db, "developer"));
  const secret = await app.key(await newPerson(app.db), api.id);

  const verdict = await createClient(KeyService, grpc(app, token)).verifyKey({ secret });

  expect(verdict).toMatchObject({ valid: true, code: VerifyCode.VALID });
});

test("admins list and revoke tokens, and people do not", async ({ app }) => {
  const made = await makeServiceToken(app.db, ["keys.verify"]);
  const service = createClient(KeyService, grpc(app, made.token));
  await service.verifyKey({ secret: "x" });
  const admin = app.client(ServiceTokenService, (await newPerson(app.db, "admin")).token);
  const person = app.client(ServiceTokenService, (await newPerson(app.db)).token);
  const one = async () =>
    (await admin.listServiceTokens({})).serviceTokens.find(({ id }) => id === made.id);

  // Asked of the database: an admin may not ask as often as that.
  await asSuperuser(app, (client) =>
    until(async () => {
      const used = "select from service_tokens where id = $1 and last_used_at is not null";
      return (await client.query(used, [made.id])).rowCount === 1;
    }),
  );
  expect((await one())?.lastUseTime).toBeDefined();
  expect(await one()).toMatchObject({ name: "test", scopes: ["keys.verify"] });
  const denied = { code: Code.PermissionDenied };
  await expect(person.listServiceTokens({})).rejects.toMatchObject(denied);
  const request = { serviceTokenId: made.id };
  await expect(person.revokeServiceToken(request)).rejects.toMatchObject(denied);
  await admin.revokeServiceToken(request);
  await admin.revokeServiceToken(request);

  expect((await one())?.revokeTime).toBeDefined();
  await expect(service.verifyKey({ secret: "x" })).rejects.toMatchObject({
    code: Code.Unauthenticated,
  });
});

test("the scopes that can be given are those that the contract asks for", async () => {
  const methods = await contractMethods();
  const asked = methods
    .map((method) => methodPolicy(method).scope ?? "")
    .filter((one) => one !== "");

  expect([...new Set(asked)].sort()).toEqual([...serviceScopes].sort());
});
