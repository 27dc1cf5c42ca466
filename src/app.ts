import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { sql } from "slonik";
import { AccountService } from "../gen/callora/accounts/v1/account_service_pb.ts";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { ServiceTokenService } from "../gen/callora/accounts/v1/service_token_service_pb.ts";
import { UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { AnalyticsService } from "../gen/callora/analytics/v1/analytics_service_pb.ts";
import { AuditService } from "../gen/callora/audit/v1/audit_service_pb.ts";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { SecretService } from "../gen/callora/credentials/v1/secret_service_pb.ts";
import { BudgetService } from "../gen/callora/credits/v1/budget_service_pb.ts";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { DepositService } from "../gen/callora/credits/v1/deposit_service_pb.ts";
import { InvoiceService } from "../gen/callora/credits/v1/invoice_service_pb.ts";
import { HealthService } from "../gen/callora/health/v1/health_service_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { RouterKeyService } from "../gen/callora/keys/v1/router_key_service_pb.ts";
import { LedgerService } from "../gen/callora/ledger/v1/ledger_service_pb.ts";
import { LimitService } from "../gen/callora/limits/v1/limit_service_pb.ts";
import { CorrectionService } from "../gen/callora/metering/v1/correction_service_pb.ts";
import { MeterService } from "../gen/callora/metering/v1/meter_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { Access, RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { SettlementService } from "../gen/callora/settlement/v1/settlement_service_pb.ts";
import { externalReader } from "./accounts/external.ts";
import { isFamiliar } from "./accounts/familiar.ts";
import { createJwtKeeper } from "./accounts/jwt.ts";
import { rememberAccounts } from "./accounts/known.ts";
import { createLastUses } from "./accounts/last-uses.ts";
import { createLockout } from "./accounts/lockout.ts";
import type { Mailer } from "./accounts/mail.ts";
import { createLimitedMailer } from "./accounts/mail-limit.ts";
import { accountService } from "./accounts/member-service.ts";
import { findMemberRole } from "./accounts/member-store.ts";
import { createPasswordHasher } from "./accounts/password.ts";
import { personAuthenticator, rememberPeople } from "./accounts/people.ts";
import { authService } from "./accounts/service.ts";
import { serviceTokenService } from "./accounts/service-token-service.ts";
import { jwtReader } from "./accounts/session.ts";
import { rememberSessions } from "./accounts/session-memory.ts";
import { existingAccounts, findPerson } from "./accounts/store.ts";
import { serviceAuthenticator, tokenReader } from "./accounts/token-reader.ts";
import { userService } from "./accounts/user-service.ts";
import { createWalletAuth, deriveSigningSecret, type WalletAuth } from "./accounts/wallet.ts";
import { analyticsService } from "./analytics/service.ts";
import { auditService } from "./audit/service.ts";
import { insertAudit } from "./audit/store.ts";
import { authMounts } from "./auth-mounts.ts";
import { listApiNames } from "./catalog/names.ts";
import { rememberPrices } from "./catalog/prices.ts";
import { catalogService } from "./catalog/service.ts";
import { existsPublishedApi } from "./catalog/store.ts";
import type { Config } from "./config.ts";
import { checkConservation } from "./conservation.ts";
import type { Sealer } from "./credentials/seal.ts";
import { secretService } from "./credentials/service.ts";
import { enabledProviders } from "./credentials/store.ts";
import { budgetService } from "./credits/budget-service.ts";
import { depositService } from "./credits/deposit-service.ts";
import { invoiceService } from "./credits/invoice-service.ts";
import { drainLeases } from "./credits/lease-end.ts";
import { creditService } from "./credits/service.ts";
import type { Database } from "./db/database.ts";
import { nothing, type Tx } from "./db/pool.ts";
import type { Trust } from "./db/trust.ts";
import { docsRoutes } from "./edge/docs.ts";
import type { Mount } from "./edge/mount.ts";
import { createEdge, type RouteInfo } from "./edge/server.ts";
import { entry, type ServiceEntry } from "./edge/service-entry.ts";
import type { Finish } from "./edge/telemetry.ts";
import { gatewayParts } from "./gateway-parts.ts";
import { createReadiness, healthService, type Readiness } from "./health.ts";
import { invoiceMount } from "./invoice-mount.ts";
import { createQuotas } from "./keys/quota.ts";
import { routerKeyService } from "./keys/router-service.ts";
import { keyService } from "./keys/service.ts";
import { findKey } from "./keys/store.ts";
import { createUseLog, type UseLog } from "./keys/use-log.ts";
import { createVerifier } from "./keys/verify.ts";
import { ledgerService } from "./ledger/service.ts";
import { platformAccountId } from "./ledger/store.ts";
import { createAddressPolicy } from "./lib/address.ts";
import { createRateOverrides, type Subject } from "./limits/overrides.ts";
import { limitService } from "./limits/service.ts";
import type { Logger } from "./log.ts";
import { createLoops, type Loops, tell, type Uses, writeUses } from "./loops.ts";
import { createMailer } from "./mailer.ts";
import { createProgress, type Progress } from "./metering/applied.ts";
import { balancesAt } from "./metering/balance-at.ts";
import { listBillLines } from "./metering/bill-lines.ts";
import { correctionService } from "./metering/correction-service.ts";
import { shardCount } from "./metering/entry.ts";
import { createJournal, getWatermark } from "./metering/journal.ts";
import { meterService } from "./metering/meter-service.ts";
import { createMonthUnits } from "./metering/month-units.ts";
import { listCursors } from "./metering/outcomes.ts";
import { closePeriods } from "./metering/periods.ts";
import { createProjectorMetrics } from "./metering/projector-metrics.ts";
import { type Projectors, startProjectors } from "./metering/projectors.ts";
import { meteringService } from "./metering/service.ts";
import type { Metrics } from "./metrics.ts";
import { metricsAllowed } from "./metrics.ts";
import { describeApi } from "./openapi.ts";
import { createOwnRates } from "./own-rates.ts";
import { type ProjectorSettings, startProjectorThread } from "./projector-thread.ts";
import { createRateLimits } from "./rate-limits.ts";
import type { Call } from "./rpc/call.ts";
import { unauthenticated } from "./rpc/errors.ts";
import type { Limiter } from "./rpc/limiter.ts";
import { openPolicy } from "./rpc/policy.ts";
import { createSteps } from "./rpc/steps.ts";
import { createStrangers } from "./rpc/strangers.ts";
import { stellarSource } from "./settlement/deposits.ts";
import { settlementService } from "./settlement/service.ts";
import type { StellarNetwork } from "./stellar/network.ts";
import { usageMount } from "./usage-mount.ts";

/** What the app is built from. Opened and closed by whoever builds it. */
export interface AppDeps {
  config: Config;
  /** Keys pseudonyms, and signs the tokens of sessions. */
  secretKey: string;
  /** Seals credentials. Its keys are checked. */
  sealer: Sealer;
  /** Undefined: as the configuration says. */
  mail?: Mailer;
  db: Database;
  trust: Trust;
  network: StellarNetwork;
  log: Logger;
  metrics: Metrics;
  now: () => Date;
  version: string;
  /** Looks after the tables as their owner, at the start and daily. Undefined: nobody does. */
  maintain?: () => Promise<void>;
  /** Ports of what the server stands on. Upstreams must not reach them. */
  ownPorts: readonly number[];
  /** Has the projectors in a thread of their own, which opens the database itself. Undefined: in this one. */
  projectorThread?: Pick<ProjectorSettings, "url" | "clockOffsetMs">;
}

/** The whole server, not yet listening. */
export interface App {
  listen(address: { host: string; port: number }): Promise<AddressInfo>;
  routes(): RouteInfo[];
  /** Stop taking calls, let running ones finish, then stop the loops. */
  close(): Promise<void>;
}

/** Build the server: the one place that knows every feature. */
export function createApp(deps: AppDeps): App {
  const { config, db, log, metrics } = deps;
  metrics.watchTrust(() => deps.trust.stats());
  const holder = randomUUID();
  const ownPorts = [...deps.ownPorts];
  const readiness = createReadiness({
    database: async () => {
      await db.systemTransaction((tx) => tx.query(sql.type(nothing)`select`));
    },
    network: async () => {
      await deps.network.horizon.latestLedger();
    },
  });
  const useLog = createUseLog({ db });
  const uses = { tokens: createLastUses(), services: createLastUses() };
  const loops = createLoops(deps, { useLog, uses });
  const limits = createRateLimits(deps);
  let projectors: Projectors | undefined;
  const progress = createProgress({
    readCursors: () => db.systemStatement(listCursors),
    onError: (err) => log.warn("Cannot ask how far the journal is applied", { err }),
  });
  let boundPort = config.server.port;
  const parts = {
    progress,
    readiness,
    loops,
    useLog,
    uses,
    holder,
    limiter: limits.limiter,
    wakeProjectors: () => projectors?.wake(),
    ownPorts: () => ownPorts,
    boundPort: () => boundPort,
  };
  const { served, gateway } = build(deps, parts);
  const edge = createEdge({
    ...served,
    docs: docsRoutes({ openapi: describeApi() }),
    sockets: [{ path: "/v1/usage/events/socket", rpc: `${MeteringService.typeName}/WatchEvents` }],
    health: {
      status: (service) => statusOf(service, readiness),
      onChange: (listener) => readiness.onChange(listener),
    },
    trustedProxies: config.server.trustedProxies,
    corsOrigins: config.server.corsOrigins,
    tls: config.server.tls,
    onFinish: (finish) => {
      metrics.observe(finish);
      logFinish(log, finish);
    },
    onError: (err, { requestId }) => log.error("Cannot finish a call", { err, requestId }),
  });

  return {
    async listen(address) {
      await limits.start();
      const bound = await edge.listen(address).catch(async (error) => {
        await limits.close();
        throw error;
      });
      boundPort = bound.port;
      ownPorts.push(bound.port);
      loops.start();
      gateway.start();
      projectors = beginProjectors(deps, { holder, progress });
      return bound;
    },
    routes: () => edge.routes(),
    async close() {
      readiness.stop();
      await edge.close({ graceMs: config.server.shutdownGraceMs });
      await loops.stop();
      await limits.close();
      // What this process leased and did not spend goes back as soon as its events are applied. What is not done
      // in time is left to other processes, or to the next start.
      const deadline = performance.now() + closingWorkMs;
      const inTime = () => performance.now() < deadline;
      try {
        await gateway.stop();
        await writeUses(db, uses);
        while (inTime() && (await useLog.flush())) {}
        while (inTime() && (await db.systemTransaction((tx) => drainAll(tx, holder)))) {}
      } finally {
        // Without a database too: a projector that is not stopped keeps the process.
        await projectors?.stop({ deadlineMs: Math.max(0, deadline - performance.now()) });
      }
    },
  };
}

function beginProjectors(
  { config, db, log, metrics, now, projectorThread }: AppDeps,
  { holder, progress }: Pick<Parts, "holder" | "progress">,
): Projectors {
  const settings = { shards: shardCount, holder, debtLimitNanos: config.debtLimitNanos };
  const listeners = {
    progress,
    metrics: createProjectorMetrics(metrics.registry),
    onError: (err: unknown) => log.warn("Cannot finish a round of a projector", { err }),
  };
  return projectorThread === undefined
    ? startProjectors({ ...settings, ...listeners, db, now })
    : startProjectorThread({ ...settings, ...projectorThread }, listeners);
}

/** The longest that a stopping process works on what it leased. */
const closingWorkMs = 5_000;

/** Drain leases of a holder. True: there may be more. */
async function drainAll(tx: Tx, holder: string): Promise<boolean> {
  return (await drainLeases(tx, { holder, leaseIds: null })) > 0;
}

interface Parts {
  readiness: Readiness;
  loops: Loops;
  useLog: UseLog;
  uses: Uses;
  limiter: Limiter;
  holder: string;
  wakeProjectors: () => void;
  progress: Progress;
  ownPorts: () => readonly number[];
  /** Known once the server listens. */
  boundPort: () => number;
}

function build(deps: AppDeps, parts: Parts) {
  const { config, db, log, now, network } = deps;
  const addresses = createAddressPolicy({
    allowedRanges: config.gateway.allowPrivateUpstreams,
    ownPorts: parts.ownPorts,
  });
  const passwords = createPasswordHasher();
  const lockout = createLockout({
    limiter: parts.limiter,
    isFamiliar: (attempt) => db.systemTransaction((tx) => isFamiliar(tx, attempt)),
  });
  const strangers = createStrangers({ now });
  const { trust, mail: mailer = createMailer(deps) } = deps;
  const mail = createLimitedMailer({ mail: mailer, limiter: parts.limiter, now });
  const jwt = createJwtKeeper(deps.secretKey);
  const people = rememberPeople({ db, trust });
  const sessions = rememberSessions({ db, trust });
  const { boundPort } = parts;
  const auth = authMounts({ ...deps, mail, sessions, passwords, lockout, strangers, boundPort });
  const { progress } = parts;
  const journal = createJournal({ db, onAppended: parts.wakeProjectors });
  const { limiter } = parts;
  const quotas = createQuotas({ db, now });
  const verifier = createVerifier({
    db,
    trust,
    limiter,
    quotas,
    useLog: parts.useLog,
    strangers,
    now,
  });
  const overrides = createRateOverrides({ db, trust });
  const steps = createSteps({
    authenticators: [
      verifier.authenticate,
      serviceAuthenticator({
        db,
        trust,
        uses: parts.uses.services,
        strangers,
        now,
        accountId: platformAccountId,
      }),
      personAuthenticator({
        readers: [
          auth.reader,
          tokenReader({ db, trust, uses: parts.uses.tokens, strangers, now }),
          jwtReader({ sessions, jwt, now }),
          externalReader({ db, issuers: config.externalIssuers, now }),
        ],
        people,
      }),
    ],
    strangers,
    limiter,
    ownRates: createOwnRates({ overrides, people }),
    now,
    auditRefusal: (call) => auditRefusal(db, call),
    onInternalError: (call, err) => {
      const { requestId } = call.exchange;
      log.error("Cannot serve a call", { err, route: call.name, requestId });
    },
  });
  const existsAccount = async (tx: Parameters<typeof existingAccounts>[0], id: string) =>
    (await existingAccounts(tx, [id])).has(id);
  const watermark = async (tx: Tx) => (await getWatermark(tx)).applied;
  const { platformFeeBasisPoints: feeBasisPoints } = config;
  const monthUnits = createMonthUnits({ db });
  const door = {
    db,
    journal,
    monthUnits,
    progress,
    shards: shardCount,
    prices: rememberPrices({ db, trust }),
    findMissingAccounts: rememberAccounts({ db }),
    onStop: (listener: () => void) => parts.readiness.onChange(listener),
    onApplied: progress.onApplied,
    now,
  };
  const sources = [stellarSource(network)];
  const invoices = { db, listLines: listBillLines, listApiNames, watermark, now };
  const services: ServiceEntry[] = [
    entry(HealthService, healthService({ readiness: parts.readiness, version: deps.version })),
    entry(
      AuthService,
      authService({ db, trust, jwt, passwords, lockout, wallet: walletAuth(deps), now }),
    ),
    entry(UserService, userService({ db, trust, passwords, now })),
    entry(AccountService, accountService({ db, trust, mail, now })),
    entry(ServiceTokenService, serviceTokenService({ db, trust, now })),
    entry(CatalogService, catalogService({ db, trust, addresses, feeBasisPoints, now })),
    entry(SecretService, secretService({ db, trust, sealer: deps.sealer, now })),
    entry(KeyService, keyService({ db, trust, verifier, limiter, existsPublishedApi, now })),
    entry(
      RouterKeyService,
      routerKeyService({
        db,
        trust,
        enabledProviders: (accountId) =>
          db.tenantRead(accountId, (tx) => enabledProviders(tx, accountId)),
        now,
      }),
    ),
    entry(CreditService, creditService({ db, existsAccount, watermark, sources, now })),
    entry(DepositService, depositService({ db, existsAccount, sources, tell, now })),
    entry(BudgetService, budgetService({ db, trust, findSubject: findBudgetSubject, now })),
    entry(InvoiceService, invoiceService(invoices)),
    entry(LedgerService, ledgerService({ db, balancesAt, watermark })),
    entry(MeteringService, meteringService(door)),
    entry(MeterService, meterService({ db, wakeBuilder: () => parts.loops.wake("meters"), now })),
    entry(CorrectionService, correctionService({ db, journal, existingAccounts, now })),
    entry(AnalyticsService, analyticsService({ db, secretKey: deps.secretKey, now })),
    entry(AuditService, auditService({ db })),
    entry(LimitService, limitService({ db, overrides, findSubjectId, now })),
    entry(
      SettlementService,
      settlementService({
        db,
        network,
        watermark,
        closePeriods,
        checkConservation: () => checkConservation({ db, network }),
        wake: () => parts.loops.wake("settlement"),
        now,
      }),
    ),
  ];
  const { holder } = parts;
  const gateway = gatewayParts({
    ...deps,
    ...{ journal, monthUnits, verifier, strangers, addresses, holder },
  });
  const mounts = [
    ...gateway.mounts,
    usageMount(door),
    invoiceMount(invoices),
    metricsMount(deps),
    startPage(),
    ...auth.mounts,
  ];
  return { served: { services, steps, mounts }, gateway };
}

/** What the limits of a person or a key of the account hang on. Null: it has no such person or key. */
async function findSubjectId(tx: Tx, { accountId, subjectId }: Subject): Promise<string | null> {
  if (subjectId.startsWith("usr_")) {
    const person = await findPerson(tx, subjectId);
    return person?.account_id === accountId ? person.id : null;
  }
  return (await findKey(tx, accountId, subjectId))?.family_id ?? null;
}

/** What a budget of a member, or of a key of the account, hangs on. Null: the account has no such one. */
async function findBudgetSubject(tx: Tx, accountId: string, id: string): Promise<string | null> {
  if (id.startsWith("usr_")) {
    return (await findMemberRole(tx, accountId, id)) === null ? null : id;
  }
  return (await findKey(tx, accountId, id))?.family_id ?? null;
}

/** In production the key for challenges is given or there is none; elsewhere one is derived. */
function walletAuth({ config, network, secretKey }: AppDeps): WalletAuth | undefined {
  const { homeDomain, webAuthSecret } = config.stellar;
  const isDerived = webAuthSecret === undefined && config.environment !== "production";
  const signingSecret = isDerived ? deriveSigningSecret(secretKey) : webAuthSecret;
  return signingSecret === undefined
    ? undefined
    : createWalletAuth({ network, signingSecret, homeDomain });
}

function metricsMount({ config, metrics }: AppDeps): Mount {
  const { environment, secrets } = config;
  return {
    method: "GET",
    pattern: "/api/metrics",
    policy: {
      access: Access.METRICS_KEY,
      auditAction: "",
      rateClass: RateClass.NONE,
      successStatus: 0,
    },
    async handler(_request, response, { call }) {
      const authorization = call.header.get("authorization") ?? undefined;
      if (!metricsAllowed({ environment, apiKey: secrets.metricsApiKey, authorization })) {
        throw unauthenticated();
      }
      const { contentType, body } = await metrics.render();
      response.setHeader("content-type", contentType);
      response.end(body);
    },
  };
}

/** A page for people who open the address in a browser. It runs no script and needs no other host. */
function startPage(): Mount {
  const page = readFileSync(join(import.meta.dirname, "..", "web", "index.html"));
  return {
    method: "GET",
    pattern: "/",
    policy: openPolicy,
    handler(_request, response) {
      response.setHeader("content-type", "text/html; charset=utf-8");
      response.setHeader(
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'",
      );
      response.end(page);
    },
  };
}

async function auditRefusal(db: Database, call: Call): Promise<void> {
  const { principal, exchange, policy } = call;
  const tenant = {
    accountId: principal?.accountId ?? "",
    actor: principal?.id ?? "",
    ip: exchange.clientIp,
    requestId: exchange.requestId,
    action: policy.auditAction,
  };
  await db.systemTransaction((tx) =>
    insertAudit(tx, { tenant, resource: call.name, outcome: "refused" }),
  );
}

/** The server as a whole, and each of its services, answer alike. */
function statusOf(service: string, readiness: Readiness) {
  const known = service === "" || service.startsWith("callora.");
  if (!known) {
    return undefined;
  }
  return readiness.isServing() ? "SERVING" : "NOT_SERVING";
}

function logFinish(log: Logger, finish: Finish): void {
  const { method, route, statusCode, durationMs, protocol, requestId, traceId } = finish;
  log.info("Served", {
    method,
    route,
    statusCode,
    durationMs: Math.round(durationMs * 10) / 10,
    protocol,
    requestId,
    ...(traceId === "" ? {} : { traceId }),
  });
}
