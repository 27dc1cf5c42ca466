import { notBuilt } from "../rpc/errors.ts";

/** The routes of an API, for calls to be matched with. */
export interface RouteTable<T> {
  /** The path as it was sent, still encoded, with its leading slash. */
  match(method: string, rawPath: string): RouteMatch<T>;
}

/** What a call is matched with. `endpoint` is how it is named in analytics, for example `GET /users/{id}`. */
export type RouteMatch<T> =
  | { kind: "match"; value: T; endpoint: string }
  | { kind: "unknown" }
  | { kind: "method"; allow: readonly string[] }
  | { kind: "ambiguous" };

/** A route that calls are matched with. Without methods: any. */
export interface RouteRule<T> {
  readonly methods: readonly string[];
  /** A path template. */
  readonly path: string;
  readonly value: T;
}

/** Routes make no table. */
export class RouteError extends Error {
  override name = "RouteError";
}

/** Make the table of routes. Throws RouteError when a template is wrong, or two routes are the same. */
export function compileRoutes<T>(_routes: readonly RouteRule<T>[]): RouteTable<T> {
  throw notBuilt("routes of APIs");
}
