import type { DescMethodUnary, DescService } from "@bufbuild/protobuf";
import { Code, ConnectError, type ContextValues, type HandlerContext } from "@connectrpc/connect";
import type { Hit } from "../endpoint.ts";
import { toHeaders } from "../http-message.ts";
import type { LiveCalls } from "./live-calls.ts";

/** One request for a unary method. */
export type UnaryRequest = Pick<Hit, "arrival" | "exchange">;

// Shared, since an error with a stack for each call that ends costs more than most calls.
const finished = Object.freeze(new ConnectError("the call has ended", Code.Canceled));
const clientLeft = Object.freeze(new ConnectError("the client left", Code.Canceled));

/**
 * What a handler learns of a unary call. Headers and the signal are made when they are first asked
 * for: most handlers ask for none of them. Until the signal exists there is no timer and no listener.
 */
export class UnaryContext implements HandlerContext {
  readonly method: DescMethodUnary;
  readonly values: ContextValues;
  readonly #hit: UnaryRequest;
  readonly #live: LiveCalls;
  readonly #deadlineMs: number;
  #requestHeader: Headers | undefined;
  #responseHeader: Headers | undefined;
  #responseTrailer: Headers | undefined;
  #controller: AbortController | undefined;
  #timer: NodeJS.Timeout | undefined;
  #onClose: (() => void) | undefined;
  #isClosed = false;

  constructor(
    { method, live }: { readonly method: DescMethodUnary; readonly live: LiveCalls },
    hit: UnaryRequest,
    timeoutMs: number | undefined,
    values: ContextValues,
  ) {
    this.values = values;
    this.method = method;
    this.#live = live;
    this.#hit = hit;
    this.#deadlineMs = timeoutMs === undefined ? Infinity : Date.now() + timeoutMs;
  }

  get service(): DescService {
    return this.method.parent;
  }

  get protocolName(): string {
    return this.#hit.exchange.protocol;
  }

  get requestMethod(): string {
    return this.#hit.arrival.method;
  }

  /** As connect-node gives it, with the host that the client named. */
  get url(): string {
    const { socket, authority, url } = this.#hit.arrival;
    const isEncrypted = socket !== undefined && "encrypted" in socket && socket.encrypted === true;
    return URL.parse(url, `${isEncrypted ? "https" : "http"}://${authority}`)?.href ?? url;
  }

  get requestHeader(): Headers {
    this.#requestHeader ??= toHeaders(this.#hit.arrival);
    return this.#requestHeader;
  }

  get responseHeader(): Headers {
    this.#responseHeader ??= new Headers();
    return this.#responseHeader;
  }

  get responseTrailer(): Headers {
    this.#responseTrailer ??= new Headers();
    return this.#responseTrailer;
  }

  /** The headers that the handler has set, if it has set any. */
  get sentHeader(): Headers | undefined {
    return this.#responseHeader;
  }

  /** The trailers that the handler has set, if it has set any. */
  get sentTrailer(): Headers | undefined {
    return this.#responseTrailer;
  }

  get timeoutMs(): () => number | undefined {
    const deadlineMs = this.#deadlineMs;
    return () => (deadlineMs === Infinity ? undefined : deadlineMs - Date.now());
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      this.#watch();
    }
    return this.#controller.signal;
  }

  /** End the call early. Its handler sees it by the signal. */
  abort(reason: unknown): void {
    this.#unwatch();
    this.#controller?.abort(reason);
  }

  /** The call has ended. Aborts the signal if there is one, and leaves no timer and no listener. */
  close(): void {
    this.#isClosed = true;
    if (this.#controller !== undefined && !this.#controller.signal.aborted) {
      this.abort(finished);
    }
  }

  #watch(): void {
    const { arrival } = this.#hit;
    const leftMs = this.#deadlineMs - Date.now();
    if (this.#isClosed) {
      this.abort(finished);
    } else if (leftMs <= 0) {
      this.abort(timedOut());
    } else if (arrival.isGone) {
      this.abort(clientLeft);
    } else {
      this.#onClose = () => this.abort(clientLeft);
      arrival.onceClosed(this.#onClose);
      if (leftMs !== Infinity) {
        this.#timer = setTimeout(() => this.abort(timedOut()), leftMs);
      }
      this.#live.add(this);
    }
  }

  #unwatch(): void {
    if (this.#onClose !== undefined) {
      clearTimeout(this.#timer);
      this.#hit.arrival.offClosed(this.#onClose);
      this.#live.delete(this);
    }
  }
}

function timedOut(): ConnectError {
  return new ConnectError("the operation timed out", Code.DeadlineExceeded);
}
