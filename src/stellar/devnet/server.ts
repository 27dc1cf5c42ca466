import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Chain, openChain } from "./chain.ts";
import { createHorizon, type Horizon, type Question } from "./horizon.ts";
import { notFound, Problem, readForm, sendJson } from "./http.ts";
import { createSubmitter, type FaultPlan, type Submitter } from "./submission.ts";

/** How to start an embedded Stellar ledger. */
export type DevnetOptions = {
  /** Where the ledger is kept. Made when missing. */
  directory: string;
  passphrase: string;
  /** Seed (`S…`) of the account that holds all XLM at first and that the friendbot gives from. */
  masterSecret: string;
  /** 0, the default, takes a free port. */
  port?: number;
  /** Loopback by default: the friendbot gives to whoever asks. */
  host?: string;
  /** How long after a submission its ledger closes; null means only on `closeLedger`. */
  closeDelayMs?: number | null;
  /** How long a submission waits for its ledger before the answer is a timeout. */
  submissionTimeoutMs?: number;
  now?: () => Date;
  fault?: FaultPlan;
  /** Hears of failures that clients only see as 500 or as a timeout. */
  onError?: (error: unknown) => void;
};

/** A running embedded ledger. */
export type Devnet = {
  url: string;
  port: number;
  passphrase: string;
  /** The ledger itself, to look into. */
  chain: Chain;
  /** Close a ledger now, even an empty one. */
  closeLedger(): Promise<{ sequence: number; closeTime: number }>;
  /** Stop serving and let go of the file. What was answered is on disk. */
  close(): Promise<void>;
};

const closeDelayMsDefault = 1000;
const submissionTimeoutMsDefault = 30_000;
const bodyBytesMax = 256 * 1024;
const urlCharactersMax = 4096;
const connectionsMax = 1024;
const requestTimeoutMs = 60_000;

/** Start an embedded Stellar ledger behind the part of Horizon's API that the Stellar SDK uses. */
export async function startDevnet(options: DevnetOptions): Promise<Devnet> {
  const { directory, passphrase, masterSecret, host = "127.0.0.1", port = 0 } = options;
  const now = options.now ?? (() => new Date());
  const { closeDelayMs = closeDelayMsDefault } = options;
  const onError = options.onError ?? (() => {});
  const chain = await openChain({
    directory,
    passphrase,
    masterSecret,
    now,
    closeDelayMs,
    onError,
  });
  const stop = new AbortController();
  const horizon = createHorizon(chain);
  const timeoutMs = options.submissionTimeoutMs ?? submissionTimeoutMsDefault;
  const submitter = createSubmitter(chain, { fault: options.fault, timeoutMs, stop: stop.signal });
  const handlers = { chain, horizon, submitter, now, onError };
  const server = createServer({ requestTimeout: requestTimeoutMs }, (request, response) => {
    handle(request, response, handlers).catch(() => request.socket.destroy());
  });
  server.maxConnections = connectionsMax;
  try {
    await listen(server, port, host);
  } catch (error) {
    await chain.stop();
    throw error;
  }
  const bound = (server.address() as AddressInfo).port;
  const authority = host.includes(":") ? `[${host}]` : host;
  let closed: Promise<void> | null = null;

  async function close(): Promise<void> {
    stop.abort();
    const ended = new Promise((resolve) => server.close(resolve));
    await chain.stop();
    server.closeAllConnections();
    await ended;
  }

  return {
    url: `http://${authority}:${bound}`,
    port: bound,
    passphrase,
    chain,
    closeLedger: chain.close,
    close() {
      closed ??= close();
      return closed;
    },
  };
}

type Handlers = {
  chain: Chain;
  horizon: Horizon;
  submitter: Submitter;
  now: () => Date;
  onError: (error: unknown) => void;
};

async function handle(
  request: IncomingMessage,
  response: ServerResponse,
  { chain, horizon, submitter, now, onError }: Handlers,
): Promise<void> {
  response.sendDate = false;
  // The SDK reckons time bounds from this header: it must not lag behind the ledger.
  const clock = () => new Date(Math.max(now().getTime(), chain.latest().closeTime * 1000));
  try {
    const question = questionOf(request);
    const { pathname } = question.url;
    const answer = await route(request, question, { horizon, submitter });
    if (answer === null) return void request.socket.destroy();
    response.setHeader("date", clock().toUTCString());
    if (pathname.startsWith("/accounts")) {
      response.setHeader("latest-ledger", String(chain.latest().sequence));
    }
    sendJson(response, answer.status, answer.body);
  } catch (error) {
    if (!(error instanceof Problem)) onError(error);
    const problem = error instanceof Problem ? error : internal();
    response.setHeader("date", clock().toUTCString());
    // What is left of a body that was not read cannot be told from the next request.
    if (!request.complete) response.setHeader("connection", "close");
    sendJson(response, problem.status, problem.body());
  }
}

async function route(
  request: IncomingMessage,
  question: Question,
  { horizon, submitter }: Pick<Handlers, "horizon" | "submitter">,
): Promise<{ status: number; body: object } | null> {
  const { pathname, searchParams } = question.url;
  if (request.method === "GET" || request.method === "HEAD") {
    const body =
      pathname === "/friendbot"
        ? await horizon.fund(searchParams.get("addr") ?? "", question)
        : await horizon.ask(question);
    return { status: 200, body };
  }
  if (request.method !== "POST") throw notFound();
  const form = await readForm(request, bodyBytesMax);
  if (pathname === "/transactions") return submitter.submit(form.get("tx") ?? "", question.base);
  if (pathname === "/transactions_async") return submitter.submitAsync(form.get("tx") ?? "");
  if (pathname !== "/friendbot") throw notFound();
  const address = form.get("addr") ?? searchParams.get("addr") ?? "";
  return { status: 200, body: await horizon.fund(address, question) };
}

function questionOf(request: IncomingMessage): Question {
  const path = request.url ?? "/";
  const base = `http://${request.headers.host ?? "localhost"}`;
  if (path.length > urlCharactersMax || !URL.canParse(base + path)) throw notFound();
  const url = new URL(base + path);
  url.pathname = url.pathname.replace(/(.)\/+$/, "$1");
  return { url, base };
}

function listen(server: ReturnType<typeof createServer>, port: number, host: string) {
  return new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

function internal(): Problem {
  const detail = "An error occurred while processing this request.";
  return new Problem("server_error", { title: "Internal Server Error", status: 500, detail });
}
