import { randomUUID } from "node:crypto";
import { Code } from "@connectrpc/connect";
import { Keypair, Transaction } from "@stellar/stellar-sdk";
import pg from "pg";
import { expect } from "vitest";
import { AccountService, MemberRole } from "../gen/callora/accounts/v1/account_service_pb.ts";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { ServiceTokenService } from "../gen/callora/accounts/v1/service_token_service_pb.ts";
import { UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { SecretService } from "../gen/callora/credentials/v1/secret_service_pb.ts";
import {
  BudgetPeriod,
  BudgetScope,
  BudgetService,
} from "../gen/callora/credits/v1/budget_service_pb.ts";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { DepositService } from "../gen/callora/credits/v1/deposit_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { RouterKeyService } from "../gen/callora/keys/v1/router_key_service_pb.ts";
import { LimitService } from "../gen/callora/limits/v1/limit_service_pb.ts";
import { CorrectionService } from "../gen/callora/metering/v1/correction_service_pb.ts";
import {
  Aggregation,
  MeterService,
  MeterState,
} from "../gen/callora/metering/v1/meter_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { SettlementService } from "../gen/callora/settlement/v1/settlement_service_pb.ts";
import { insertIdentity } from "../src/accounts/identity-store.ts";
import { insertMember } from "../src/accounts/member-store.ts";
import { createWalletAuth, deriveSigningSecret, walletIssuer } from "../src/accounts/wallet.ts";
import { methodName, methodPolicy } from "../src/rpc/policy.ts";
import { must, type Person, password, type startTestApp, until } from "./support/app.ts";
import { contractMethods } from "./support/contract.ts";
import { buyCredit, leaveDeposit } from "./support/payments.ts";
import { secretKey } from "./support/secret.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeServiceToken, makeSession } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Options = { headers: Record<string, string> };

/** What a call did: who is said to have done it, to what, and where the changed row is. */
interface Deed {
  actor: Person;
  resource: string;
  /** A query for the `xmin` of the row that the call wrote. */
  row: { table: string; where: string; value: unknown };
  /** Let go of what keeps the row as it is. */
  release?: () => Promise<void>;
}

const sessionDeed = deed("sessions", "session");
const tokenDeed = deed("api_tokens", "token");
const userDeed = deed("users", "user");
const invitationDeed = deed("invitations", "invitation");

const budgetDeed = deed("budgets", "budget");
const newBudget = { scope: BudgetScope.ACCOUNT, period: BudgetPeriod.DAY, limitNanos: 5n };

const slug = () => `a${randomUUID().slice(0, 12)}`;
const unknownApi = "api_00000000000000000000000000";

/** A successful call of each audited method. */
type Deeds = Readonly<Record<string, (app: App, options: Options) => Promise<Deed>>>;

const peopleDeeds: Deeds = {
  "accounts.v1.AuthService/Login": async (app, options) => {
    const actor = await app.person();
    await app.client(AuthService).login({ username: actor.username, password }, options);
    return { actor, resource: "auth/session", row: lastSession(actor.id) };
  },
  "accounts.v1.AuthService/WalletLogin": async (app, options) => {
    const wallet = Keypair.random();
    const actor = await app.person();
    const { accountId, id: userId } = actor;
    const { passphrase } = app.network;
    const identity = { issuer: walletIssuer(passphrase), subject: wallet.publicKey() };
    await app.db.systemTransaction((tx) => insertIdentity(tx, identity, { accountId, userId }));
    const challenges = createWalletAuth({
      network: app.network,
      signingSecret: deriveSigningSecret(secretKey),
      homeDomain: "localhost",
    });
    const tx = new Transaction(await challenges.challenge(wallet.publicKey()), passphrase);
    tx.sign(wallet);
    await app.client(AuthService).walletLogin({ transaction: tx.toXdr() }, options);
    return { actor, resource: "auth/session", row: lastSession(userId) };
  },
  "accounts.v1.AuthService/SignOut": async (app, options) => {
    const { actor, session } = await makeSessionOf(app);
    await app.client(AuthService, session.token).signOut({}, options);
    return sessionDeed(actor, session.id);
  },
  "accounts.v1.AuthService/RevokeSession": async (app, options) => {
    const { actor, session } = await makeSessionOf(app);
    const request = { sessionId: session.id };
    await app.client(AuthService, actor.token).revokeSession(request, options);
    return sessionDeed(actor, session.id);
  },
  "accounts.v1.AuthService/CreateToken": async (app, options) => {
    const { actor, session } = await makeSessionOf(app);
    const { id } = await app.client(AuthService, session.token).createToken({ name: "x" }, options);
    return tokenDeed(actor, id);
  },
  "accounts.v1.AuthService/RevokeToken": async (app, options) => {
    const { actor, session } = await makeSessionOf(app);
    const auth = app.client(AuthService, session.token);
    const { id: tokenId } = await auth.createToken({ name: "x" });
    await auth.revokeToken({ tokenId }, options);
    return tokenDeed(actor, tokenId);
  },
  "accounts.v1.UserService/UpdateUser": async (app, options) => {
    const [actor, { id: userId }] = [await app.admin(), await app.person()];
    const request = { userId, username: slug() };
    await app.client(UserService, actor.token).updateUser(request, options);
    return userDeed(actor, userId);
  },
  "accounts.v1.UserService/DeactivateUser": async (app, options) => {
    const [actor, { id: userId }] = [await app.admin(), await app.person()];
    await app.client(UserService, actor.token).deactivateUser({ userId }, options);
    return userDeed(actor, userId);
  },
  "accounts.v1.UserService/SetUserRole": async (app, options) => {
    const [actor, { id: userId }] = [await app.admin(), await app.person()];
    const request = { userId, role: "developer" };
    await app.client(UserService, actor.token).setUserRole(request, options);
    return userDeed(actor, userId);
  },
  "accounts.v1.UserService/RevokeUserToken": async (app, options) => {
    const actor = await app.admin();
    const { actor: person, session } = await makeSessionOf(app);
    const { id: userId } = person;
    const auth = app.client(AuthService, session.token);
    const { id: tokenId } = await auth.createToken({ name: "x" });
    await app.client(UserService, actor.token).revokeUserToken({ userId, tokenId }, options);
    return tokenDeed(actor, tokenId);
  },
  "accounts.v1.AccountService/UpdateAccount": async (app, options) => {
    const actor = await app.person();
    await app.client(AccountService, actor.token).updateAccount({ name: "New" }, options);
    const row = { table: "accounts", where: "account_id = $1", value: actor.accountId };
    return { actor, resource: `account:${actor.accountId}`, row };
  },
  "accounts.v1.AccountService/SetMemberRole": async (app, options) => {
    const [actor, { id: userId }] = [await app.person(), await app.person()];
    await addMember(app, actor.accountId, userId);
    const request = { userId, role: MemberRole.ADMIN };
    await app.client(AccountService, actor.token).setMemberRole(request, options);
    return memberDeed(actor, userId);
  },
  "accounts.v1.AccountService/RemoveMember": async (app, options) => {
    const [actor, { id: userId }] = [await app.person(), await app.person()];
    await addMember(app, actor.accountId, userId);
    await app.client(AccountService, actor.token).removeMember({ userId }, options);
    return memberDeed(actor, userId);
  },
  "accounts.v1.AccountService/CreateInvitation": async (app, options) => {
    const actor = await app.person();
    const request = { email: `${slug()}@x.example`, role: MemberRole.VIEWER };
    const client = app.client(AccountService, actor.token);
    return invitationDeed(
      actor,
      must((await client.createInvitation(request, options)).invitation).id,
    );
  },
  "accounts.v1.AccountService/RevokeInvitation": async (app, options) => {
    const actor = await app.person();
    const client = app.client(AccountService, actor.token);
    const request = { email: `${slug()}@x.example`, role: MemberRole.VIEWER };
    const { id: invitationId } = must((await client.createInvitation(request)).invitation);
    await client.revokeInvitation({ invitationId }, options);
    return invitationDeed(actor, invitationId);
  },
  "accounts.v1.AccountService/AcceptInvitation": async (app, options) => {
    const [owner, guest] = [await app.person(), await app.person()];
    const email = `${slug()}@x.example`;
    const { invitation } = await app
      .client(AccountService, owner.token)
      .createInvitation({ email, role: MemberRole.VIEWER });
    const mail = must(app.mails.find(({ to }) => to === email));
    const token = must(/civ_[\w-]{43}/.exec(mail.text)?.[0]);
    await app.client(AccountService, guest.token).acceptInvitation({ token }, options);
    const actor = { ...guest, accountId: owner.accountId };
    return invitationDeed(actor, must(invitation).id);
  },
  "accounts.v1.ServiceTokenService/RevokeServiceToken": async (app, options) => {
    const actor = await app.admin();
    const { id: serviceTokenId } = await makeServiceToken(app.db, ["keys.verify"]);
    const client = app.client(ServiceTokenService, actor.token);
    await client.revokeServiceToken({ serviceTokenId }, options);
    const row = { table: "service_tokens", where: "id = $1", value: serviceTokenId };
    return { actor, resource: `service_token:${serviceTokenId}`, row };
  },
};

const deeds: Deeds = {
  "accounts.v1.AuthService/PasswordLogin": async (app, options) => {
    const actor = await app.person();
    await app.client(AuthService).passwordLogin({ username: actor.username, password }, options);
    return { actor, resource: "auth/session", row: lastSession(actor.id) };
  },
  "accounts.v1.UserService/CreateUser": async (app, options) => {
    const actor = await app.admin();
    const client = app.client(UserService, actor.token);
    const { user } = await client.createUser({ username: slug(), password }, options);
    const { id } = must(user);
    return { actor, resource: `user:${id}`, row: { table: "users", where: "id = $1", value: id } };
  },
  ...peopleDeeds,
  "catalog.v1.CatalogService/CreateApi": async (app, options) => {
    const actor = await app.person("DEVELOPER");
    const draft = { name: "x", slug: slug(), upstreamUrl: "http://127.0.0.1:9" };
    const { api } = await app.client(CatalogService, actor.token).createApi(draft, options);
    return apiDeed(actor, must(api).id);
  },
  "catalog.v1.CatalogService/UpdateApi": async (app, options) => {
    const actor = await app.person("DEVELOPER");
    const { id: apiId } = await app.api(actor);
    await app.client(CatalogService, actor.token).updateApi({ apiId, callNanos: 7n }, options);
    return apiDeed(actor, apiId);
  },
  "catalog.v1.CatalogService/PublishApi": async (app, options) => {
    const actor = await app.person("DEVELOPER");
    const { id: apiId } = await app.api(actor);
    await app.client(CatalogService, actor.token).publishApi({ apiId }, options);
    return apiDeed(actor, apiId);
  },
  "catalog.v1.CatalogService/UnpublishApi": async (app, options) => {
    const actor = await app.person("DEVELOPER");
    const { id: apiId } = await app.api(actor);
    await app.client(CatalogService, actor.token).unpublishApi({ apiId }, options);
    return apiDeed(actor, apiId);
  },
  "keys.v1.KeyService/CreateKey": async (app, options) => {
    const actor = await app.person();
    const { id: apiId } = await app.api(await app.person("DEVELOPER"));
    const { key } = await app.client(KeyService, actor.token).createKey({ apiId }, options);
    return keyDeed(actor, must(key).id);
  },
  "keys.v1.KeyService/RevokeKey": async (app, options) => {
    const { actor, keyId } = await makeKey(app);
    await app.client(KeyService, actor.token).revokeKey({ keyId }, options);
    return keyDeed(actor, keyId);
  },
  "keys.v1.KeyService/RevokeKeyForApi": async (app, options) => {
    const { actor, keyId, apiId } = await makeKey(app);
    await app.client(KeyService, actor.token).revokeKeyForApi({ apiId }, options);
    return keyDeed(actor, keyId);
  },
  "credentials.v1.SecretService/PutSecret": async (app, options) => {
    const actor = await app.person();
    const secret = { provider: "other", keys: { token: "x" } };
    await app.client(SecretService, actor.token).putSecret(secret, options);
    return secretDeed(actor);
  },
  "credentials.v1.SecretService/SetSecretEnabled": async (app, options) => {
    const actor = await makeSecret(app);
    const change = { provider: "other", enabled: false };
    await app.client(SecretService, actor.token).setSecretEnabled(change, options);
    return secretDeed(actor);
  },
  "credentials.v1.SecretService/DeleteSecret": async (app, options) => {
    const deed = secretDeed(await makeSecret(app));
    const release = await hold(app, deed.row);
    await app.client(SecretService, deed.actor.token).deleteSecret({ provider: "other" }, options);
    return { ...deed, release };
  },
  "keys.v1.KeyService/UpdateKey": async (app, options) => {
    const { actor, keyId } = await makeKey(app);
    await app.client(KeyService, actor.token).updateKey({ keyId, displayName: "x" }, options);
    return keyDeed(actor, keyId);
  },
  "keys.v1.KeyService/DisableKey": async (app, options) => {
    const { actor, keyId } = await makeKey(app);
    await app.client(KeyService, actor.token).disableKey({ keyId }, options);
    return keyDeed(actor, keyId);
  },
  "keys.v1.KeyService/EnableKey": async (app, options) => {
    const { actor, keyId } = await makeKey(app);
    await app.client(KeyService, actor.token).disableKey({ keyId });
    await app.client(KeyService, actor.token).enableKey({ keyId }, options);
    return keyDeed(actor, keyId);
  },
  "keys.v1.KeyService/RotateKey": async (app, options) => {
    const { actor, keyId } = await makeKey(app);
    await app.client(KeyService, actor.token).rotateKey({ keyId }, options);
    return keyDeed(actor, keyId);
  },
  "keys.v1.KeyService/DeleteKey": async (app, options) => {
    const { actor, keyId } = await makeKey(app);
    await app.client(KeyService, actor.token).deleteKey({ keyId }, options);
    return keyDeed(actor, keyId);
  },
  "keys.v1.RouterKeyService/CreateRouterKey": async (app, options) => {
    const actor = await app.person();
    const client = app.client(RouterKeyService, actor.token);

    await client.createRouterKey({}, options);
    return routerKeyDeed(app, actor);
  },
  "keys.v1.RouterKeyService/RegenerateRouterKey": async (app, options) => {
    const actor = await app.person();
    const client = app.client(RouterKeyService, actor.token);
    await client.createRouterKey({});
    await client.regenerateRouterKey({}, options);
    return routerKeyDeed(app, actor);
  },
  "keys.v1.RouterKeyService/SetRouterKeyEnabled": async (app, options) => {
    const actor = await app.person();
    const client = app.client(RouterKeyService, actor.token);
    await client.createRouterKey({});
    await client.setRouterKeyEnabled({ enabled: false }, options);
    return routerKeyDeed(app, actor);
  },
  "keys.v1.RouterKeyService/DeleteRouterKeys": async (app, options) => {
    const actor = await app.person();
    const client = app.client(RouterKeyService, actor.token);
    await client.createRouterKey({});
    await client.deleteRouterKeys({}, options);
    return routerKeyDeed(app, actor);
  },
  "credits.v1.BudgetService/PutBudget": async (app, options) => {
    const actor = await app.person();
    const { budget } = await app.client(BudgetService, actor.token).putBudget(newBudget, options);
    return budgetDeed(actor, must(budget).id);
  },
  "credits.v1.BudgetService/DeleteBudget": async (app, options) => {
    const actor = await app.person();
    const client = app.client(BudgetService, actor.token);
    const { id: budgetId } = must((await client.putBudget(newBudget)).budget);
    await client.deleteBudget({ budgetId }, options);
    return budgetDeed(actor, budgetId);
  },
  "credits.v1.BudgetService/SetAlert": async (app, options) => {
    const actor = await app.person();
    // Without a threshold: the loop that tells of low balances notes in the row that it did.
    await app.client(BudgetService, actor.token).setAlert({ thresholdNanos: 0n }, options);
    const row = { table: "balance_alerts", where: "account_id = $1", value: actor.accountId };
    return { actor, resource: `account:${actor.accountId}`, row };
  },
  "credits.v1.CreditService/GrantCredits": async (app, options) => {
    const actor = await app.admin();
    const { accountId } = await app.person();
    const grant = { accountId, amountNanos: 5n, note: "welcome" };
    await app.client(CreditService, actor.token).grantCredits(grant, options);
    const where = "account_id = $1 and credit_kind = 'consumer'";
    const row = { table: "ledger_transfers", where, value: accountId };
    return { actor, resource: `account:${accountId}`, row };
  },
  "credits.v1.CreditService/GrantTestCredits": async (app, options) => {
    const actor = await app.person();
    const { accountId } = actor;
    await app.client(CreditService, actor.token).grantTestCredits({ amountNanos: 5n }, options);
    const row = { table: "credit_grants", where: "account_id = $1", value: accountId };
    return { actor, resource: `account:${accountId}`, row };
  },
  "credits.v1.CreditService/PurchaseCredits": async (app, options) => {
    const actor = await app.person();
    const { purchase } = await app
      .client(CreditService, actor.token)
      .purchaseCredits({ planId: "pro" }, options);
    const { id } = must(purchase);
    const row = { table: "credit_purchases", where: "id = $1", value: id };
    return { actor, resource: `purchase:${id}`, row };
  },
  "credits.v1.CreditService/AdjustCredits": async (app, options) => {
    const actor = await app.admin();
    const { accountId } = await app.person();
    const adjustment = { accountId, amountNanos: 5n, note: "a bad day" };
    await app.client(CreditService, actor.token).adjustCredits(adjustment, options);
    const row = { table: "credit_grants", where: "account_id = $1", value: accountId };
    return { actor, resource: `account:${accountId}`, row };
  },
  "credits.v1.CreditService/RefundPurchase": async (app, options) => {
    const actor = await app.admin();
    const purchaseId = await buyCredit(app, await app.person());
    const refund = { purchaseId, amountNanos: 500n, note: "sorry" };
    await app.client(CreditService, actor.token).refundPurchase(refund, options);
    const row = { table: "credit_returns", where: "purchase_id = $1", value: purchaseId };
    return { actor, resource: `purchase:${purchaseId}`, row };
  },
  "credits.v1.DepositService/AssignDeposit": async (app, options) => {
    const actor = await app.admin();
    const { accountId } = await app.person();
    const depositId = await leaveDeposit(app);
    const assignment = { depositId, accountId, note: "by phone" };
    await app.client(DepositService, actor.token).assignDeposit(assignment, options);
    const row = { table: "credit_purchases", where: "account_id = $1", value: accountId };
    return { actor, resource: `deposit:${depositId}`, row };
  },
  "limits.v1.LimitService/SetRateOverride": async (app, options) => {
    const actor = await app.admin();
    const { accountId, id: subjectId } = await app.person();
    const override = { accountId, subjectId, rateClass: RateClass.V1, perMinute: 7 };
    await app.client(LimitService, actor.token).setRateOverride(override, options);
    const row = { table: "rate_overrides", where: "subject_id = $1", value: subjectId };
    return { actor, resource: `rate_override:${subjectId}`, row };
  },
  "limits.v1.LimitService/DeleteRateOverride": async (app, options) => {
    const actor = await app.admin();
    const { accountId, id: subjectId } = await app.person();
    const override = { accountId, subjectId, rateClass: RateClass.V1 };
    const client = app.client(LimitService, actor.token);
    await client.setRateOverride({ ...override, perMinute: 7 });
    await client.deleteRateOverride(override, options);
    // A row that is gone names no transaction.
    const where = "resource = $1 and action = 'rate_override.delete'";
    const resource = `rate_override:${subjectId}`;
    return { actor, resource, row: { table: "audit_logs", where, value: resource } };
  },
  "metering.v1.MeterService/CreateMeter": async (app, options) => {
    const actor = await app.person();
    const request = { requestId: randomUUID(), slug: slug(), aggregation: Aggregation.COUNT };
    const { meter } = await app.client(MeterService, actor.token).createMeter(request, options);
    // The meter's own row is changed again when it is built.
    const row = { table: "idempotency_keys", where: "key = $1", value: request.requestId };
    return { actor, resource: `meter:${must(meter).id}`, row };
  },
  "metering.v1.MeterService/DeleteMeter": async (app, options) => {
    const actor = await app.person();
    const meters = app.client(MeterService, actor.token);
    const request = { slug: slug(), aggregation: Aggregation.COUNT };
    const { id: meterId } = must((await meters.createMeter(request)).meter);
    const isActive = async () =>
      (await meters.getMeter({ meterId })).meter?.state === MeterState.ACTIVE;
    await until(isActive);
    const row = { table: "meters", where: "id = $1", value: meterId };
    const release = await hold(app, row);
    await meters.deleteMeter({ meterId }, options);
    return { actor, resource: `meter:${meterId}`, row, release };
  },
  "metering.v1.CorrectionService/ReplayEvents": async (app, options) => {
    const { actor, corrections, id, place } = await makeQuarantined(app);
    await corrections.replayEvents({ quarantineIds: [id], reason: "x" }, options);
    return quarantineDeed(actor, { id, place });
  },
  "metering.v1.CorrectionService/DismissEvent": async (app, options) => {
    const { actor, corrections, id, place } = await makeQuarantined(app);
    await corrections.dismissEvent({ quarantineId: id, reason: "x" }, options);
    return quarantineDeed(actor, { id, place });
  },
  "metering.v1.CorrectionService/VoidEvent": async (app, options) => {
    const { actor, corrections, event } = await makeEvent(app);
    await corrections.voidEvent({ ...event, reason: "x" }, options);
    return eventDeed(app, actor, event);
  },
  "metering.v1.CorrectionService/AdjustEvent": async (app, options) => {
    const { actor, corrections, event } = await makeEvent(app);
    await corrections.adjustEvent({ ...event, chargedNanos: 7n, reason: "x" }, options);
    return eventDeed(app, actor, event);
  },
  "metering.v1.CorrectionService/SetDebtLimit": async (app, options) => {
    const actor = await app.admin();
    const { accountId } = await app.person();
    const client = app.client(CorrectionService, actor.token);
    await client.setDebtLimit({ accountId, limitNanos: 7n }, options);
    const row = { table: "debt_limits", where: "account_id = $1", value: accountId };
    return { actor, resource: `account:${accountId}`, row };
  },
  "settlement.v1.SettlementService/RunSettlement": async (app, options) => {
    const actor = await app.admin();
    const client = app.client(SettlementService, actor.token);
    const { id } = must((await client.runSettlement({}, options)).settlement);
    const row = { table: "settlements", where: "id = $1", value: id };
    return { actor, resource: `settlement:${id}`, row };
  },
  "settlement.v1.SettlementService/SetPayoutAddress": async (app, options) => {
    const actor = await app.person("DEVELOPER");
    const address = Keypair.random().publicKey();
    await app.client(SettlementService, actor.token).setPayoutAddress({ address }, options);
    const row = { table: "payout_addresses", where: "account_id = $1", value: actor.accountId };
    return { actor, resource: `payout_address:${address}`, row };
  },
};

/** Hold a row, so that it is not cleared away before it is looked at. */
async function hold(
  app: App,
  { table, where, value }: Deed["row"],
): Promise<NonNullable<Deed["release"]>> {
  const session = new pg.Client({ connectionString: app.urls.superuser });
  await session.connect();
  await session.query("begin");
  await session.query(`select from ${table} where ${where} for key share`, [value]);
  return () => session.end();
}

/** An applied event, and who corrects it. */
async function makeEvent(app: App) {
  const actor = await app.admin();
  const consumer = await app.person();
  const { id: apiId } = await app.api(await app.person("DEVELOPER"));
  const event = { accountId: consumer.accountId, source: "urn:test", id: randomUUID() };
  const metering = app.client(MeteringService, actor.token);
  await metering.recordUsage({ events: [{ ...event, apiId }] });
  await app.applied();
  return { actor, corrections: app.client(CorrectionService, actor.token), event, apiId, metering };
}

async function eventDeed(app: App, actor: Person, event: { accountId: string; id: string }) {
  const [found] = await asSuperuser(app, async (client) => {
    const text = "select position, ordinal from usage_events where account_id = $1 and id = $2";
    return (await client.query(text, [event.accountId, event.id])).rows;
  });
  const place = `${found.position}.${found.ordinal}`;
  // The newest row of the account's shard: the correction.
  const where = `position = (select max(position) from usage_journal
    where shard = (select shard from usage_events where id = $1))`;
  const row = { table: "usage_journal", where, value: event.id };
  return { actor, resource: `usage_event:${event.accountId}:${place}`, row };
}

/** An event in quarantine, and who deals with it. */
async function makeQuarantined(app: App) {
  const { actor, corrections, event, apiId, metering } = await makeEvent(app);
  await metering.recordUsage({ events: [{ ...event, apiId, endpoint: "another" }] });
  await app.applied();
  const { events } = await corrections.listQuarantinedEvents({ accountId: event.accountId });
  const { id } = must(events[0]);
  return { actor, corrections, id, place: id.split(".") };
}

function quarantineDeed(actor: Person, { id, place }: { id: string; place: string[] }) {
  const where = "position = $1";
  const row = { table: "usage_quarantine", where, value: must(place[0]) };
  return { actor, resource: `quarantined_event:${id}`, row };
}

const methods = await contractMethods();
const short = (name: string) => name.replace(/^callora\./, "");

test("every audited method is done here once", () => {
  const audited = methods.filter((method) => methodPolicy(method).auditAction !== "");

  expect(audited.map((method) => short(methodName(method))).sort()).toEqual(
    Object.keys(deeds).sort(),
  );
});

test.for(Object.entries(deeds))(
  "%s is in the log, written by the transaction of the change",
  async ([name, act], { app }) => {
    const method = must(methods.find((one) => short(methodName(one)) === name));
    const requestId = randomUUID();

    const deed = await act(app, { headers: { "x-request-id": requestId } });
    const { actor, resource, row } = deed;

    const records = await recordsOf(app, requestId);
    expect(records).toEqual([
      {
        account_id: actor.accountId,
        actor_user_id: actor.id,
        action: methodPolicy(method).auditAction,
        resource,
        outcome: "done",
        ip: "127.0.0.1",
        transaction: expect.any(String),
      },
    ]);
    const [changed] = await asSuperuser(app, async (client) => {
      const query = `select xmin::text as transaction from ${row.table} where ${row.where}`;
      return (await client.query(query, [row.value])).rows;
    });
    await deed.release?.();
    expect(changed.transaction).toBe(records[0]?.transaction);
  },
);

/** Calls that fail in their handler, some after having written something. */
const failures: Readonly<Record<string, (app: App, options: Options) => Promise<unknown>>> = {
  "a key for no API": async (app, options) =>
    app.client(KeyService, (await app.person()).token).createKey({ apiId: unknownApi }, options),
  "a second live key": async (app, options) => {
    const { actor, apiId } = await makeKey(app);
    return app.client(KeyService, actor.token).createKey({ apiId }, options);
  },
  "revoking no key": async (app, options) => {
    const client = app.client(KeyService, (await app.person()).token);
    return client.revokeKey({ keyId: "key_00000000000000000000000000" }, options);
  },
  "a slug that is taken": async (app, options) => {
    const developer = await app.person("DEVELOPER");
    const { slug: taken } = await app.api(developer);
    const draft = { name: "x", slug: taken, upstreamUrl: "http://127.0.0.1:9" };
    return app.client(CatalogService, developer.token).createApi(draft, options);
  },
  "a name that is taken": async (app, options) => {
    const { username } = await app.person();
    const { token } = await app.admin();
    return app.client(UserService, token).createUser({ username, password }, options);
  },
  "a rate for nobody": async (app, options) => {
    const { token } = await app.admin();
    const { accountId } = await app.person();
    const subjectId = "key_00000000000000000000000001";
    const override = { accountId, subjectId, rateClass: RateClass.V1, perMinute: 7 };
    return app.client(LimitService, token).setRateOverride(override, options);
  },
  "credit for no account": async (app, options) => {
    const { token } = await app.admin();
    const grant = { accountId: "acc_00000000000000000000000001", amountNanos: 1n };
    return app.client(CreditService, token).grantCredits(grant, options);
  },
  "taking credit that is not there": async (app, options) => {
    const { token } = await app.admin();
    const { accountId } = await app.person();
    const adjustment = { accountId, amountNanos: -1n, note: "x" };
    return app.client(CreditService, token).adjustCredits(adjustment, options);
  },
};

test.for(Object.entries(failures))(
  "%s fails and leaves no record",
  async ([, attempt], { app }) => {
    const requestId = randomUUID();

    await expect(attempt(app, { headers: { "x-request-id": requestId } })).rejects.toThrow(
      "Cannot",
    );

    expect(await recordsOf(app, requestId)).toEqual([]);
  },
);

test("a wrong password is in the log as refused, without a word about who it was", async ({
  app,
}) => {
  const person = await app.person();
  const requestId = randomUUID();
  const options = { headers: { "x-request-id": requestId } };
  const attempt = { username: person.username, password: "a wrong password" };

  const login = app.client(AuthService).passwordLogin(attempt, options);

  await expect(login).rejects.toMatchObject({ code: Code.Unauthenticated });
  expect(await recordsOf(app, requestId)).toMatchObject([
    { account_id: "", actor_user_id: "", action: "user.login", outcome: "refused" },
  ]);
});

async function makeSessionOf(app: App) {
  const actor = await app.person();
  const { accountId, id: userId } = actor;
  return { actor, session: await makeSession(app.db, { accountId, userId }) };
}

async function addMember(app: App, accountId: string, userId: string): Promise<void> {
  await app.db.systemTransaction((tx) => insertMember(tx, { accountId, userId, role: "member" }));
}

function lastSession(userId: string): Deed["row"] {
  const where = "created_at = (select max(created_at) from sessions where user_id = $1)";
  return { table: "sessions", where, value: userId };
}

function deed(table: string, kind: string) {
  return (actor: Person, id: string): Deed => ({
    actor,
    resource: `${kind}:${id}`,
    row: { table, where: "id = $1", value: id },
  });
}

function memberDeed(actor: Person, userId: string): Deed {
  const row = {
    table: "members",
    where: `account_id = '${actor.accountId}' and user_id = $1`,
    value: userId,
  };
  return { actor, resource: `member:${userId}`, row };
}

function apiDeed(actor: Person, id: string): Deed {
  return { actor, resource: `api:${id}`, row: { table: "apis", where: "id = $1", value: id } };
}

function keyDeed(actor: Person, id: string): Deed {
  return {
    actor,
    resource: `api_key:${id}`,
    row: { table: "api_keys", where: "id = $1", value: id },
  };
}

async function makeSecret(app: App): Promise<Person> {
  const actor = await app.person();
  const secret = { provider: "other", keys: { token: "x" } };
  await app.client(SecretService, actor.token).putSecret(secret);
  return actor;
}

function secretDeed(actor: Person): Deed {
  const row = { table: "credentials", where: "account_id = $1", value: actor.accountId };
  return { actor, resource: "secret:other", row };
}

async function routerKeyDeed(app: App, actor: Person): Promise<Deed> {
  const where = "account_id = $1";
  const row = { table: "router_keys", where, value: actor.accountId };
  const [found] = await asSuperuser(app, async (client) => {
    const query = `select id from router_keys where ${where}`;
    return (await client.query(query, [actor.accountId])).rows;
  });
  return { actor, resource: `router_key:${found.id}`, row };
}

async function makeKey(app: App) {
  const actor = await app.person();
  const { id: apiId } = await app.api(await app.person("DEVELOPER"));
  const { key } = await app.client(KeyService, actor.token).createKey({ apiId });
  return { actor, apiId, keyId: must(key).id };
}

function recordsOf(app: App, requestId: string) {
  return asSuperuser(app, async (client) => {
    const { rows } = await client.query(
      `select account_id, actor_user_id, action, resource, outcome, host(ip) as ip,
         xmin::text as transaction
       from audit_logs where request_id = $1`,
      [requestId],
    );
    return rows;
  });
}
