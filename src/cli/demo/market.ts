import { randomBytes } from "node:crypto";
import {
  AuthService,
  PasswordLoginResponseSchema,
} from "../../../gen/callora/accounts/v1/auth_service_pb.ts";
import {
  PlatformRole,
  UserSchema,
  UserService,
} from "../../../gen/callora/accounts/v1/user_service_pb.ts";
import {
  type Api,
  ApiState,
  CatalogService,
} from "../../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { GrantCreditsResponseSchema } from "../../../gen/callora/credits/v1/credit_service_pb.ts";
import { KeyService } from "../../../gen/callora/keys/v1/key_service_pb.ts";
import type { Clients } from "./clients.ts";
import { expectSame, present } from "./report.ts";

/** Somebody who is signed in. */
export interface Person {
  id: string;
  username: string;
  accountId: string;
  token: string;
}

/** A consumer with a key. */
export interface Consumer extends Person {
  keyId: string;
  /** What the consumer presents to the gateway. */
  secret: string;
}

/** Sign the admin in, over REST. */
export async function signInAdmin(
  { rest }: Clients,
  login: { username: string; password: string },
): Promise<Person> {
  const { accessToken: token } = await rest({
    method: "POST",
    path: "/api/v1/auth/login",
    body: login,
    response: PasswordLoginResponseSchema,
  });
  const { id, username, accountId } = await rest({
    method: "GET",
    path: "/api/v1/auth/me",
    token,
    response: UserSchema,
  });
  return { id, username, accountId, token };
}

/** Make a person and sign them in, over Connect. */
export async function createPerson(
  { connect }: Clients,
  admin: Person,
  { username, role }: { username: string; role: "USER" | "DEVELOPER" },
): Promise<Person> {
  const password = randomBytes(18).toString("base64url");
  const users = connect(UserService, admin.token);
  const { user } = await users.createUser({ username, password, role: PlatformRole[role] });
  const { id, accountId } = present("the new person", user);
  const { accessToken: token } = await connect(AuthService).passwordLogin({ username, password });
  return { id, username, accountId, token };
}

/** Make a draft, set its price and publish it, over Connect. */
export async function publishApi(
  { connect }: Clients,
  developer: Person,
  { slug, upstreamUrl, callNanos }: { slug: string; upstreamUrl: string; callNanos: bigint },
): Promise<Api> {
  const catalog = connect(CatalogService, developer.token);
  const draft = await catalog.createApi({ name: "Quotes", slug, upstreamUrl });
  const apiId = present("the draft", draft.api).id;
  await catalog.updateApi({ apiId, callNanos });
  const { api: published } = await catalog.publishApi({ apiId });
  const api = present("the published API", published);
  expectSame("the API's state", api.state, ApiState.PUBLISHED);
  expectSame("its price", api.price?.callNanos, callNanos);
  return api;
}

/** Make a key for the consumer, over gRPC. */
export async function createKey(
  { grpc }: Clients,
  consumer: Person,
  apiId: string,
): Promise<Consumer> {
  const request = { apiId, displayName: "demo" };
  const { key, secret } = await grpc(KeyService.method.createKey, consumer.token, request);
  return { ...consumer, keyId: present("the key", key).id, secret };
}

/** Grant credit to a new account, over REST. */
export async function grantCredit(
  { rest }: Clients,
  admin: Person,
  { accountId, amountNanos }: { accountId: string; amountNanos: bigint },
): Promise<void> {
  const { balance } = await rest({
    method: "POST",
    path: "/api/admin/credits/grants",
    token: admin.token,
    body: { accountId, amountNanos: amountNanos.toString(), note: "demo" },
    response: GrantCreditsResponseSchema,
  });
  expectSame("the balance after the grant", balance?.availableNanos, amountNanos);
}
