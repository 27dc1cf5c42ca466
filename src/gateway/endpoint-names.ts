import { createLruMap } from "../lib/lru-map.ts";
import { endpointName } from "./target.ts";

/** Names the endpoints of APIs without routes, of which each has a bounded number. */
export interface EndpointNames {
  /** How a call that ends with the status is named in analytics. */
  of(apiId: string, call: { method: string; path: string; status: number }): string;
}

/** APIs whose endpoints are remembered. */
const apisMax = 5_000;
/** Endpoints of one API. What more there is counts as the rest of its method. */
const namesMax = 100;

/**
 * Make the names.
 *
 * Callers make paths up, and each name is rows of its own in every sum: an endpoint has a name once its API has served
 * it, so that what an upstream refuses has none. Which endpoints those are is each process's own memory. Past the
 * limit, and before, a call counts under its method alone, as `GET /*`: APIs with more endpoints have routes.
 */
export function createEndpointNames(): EndpointNames {
  const byApi = createLruMap<Set<string>>(apisMax);
  return {
    of(apiId, { method, path, status }) {
      const name = endpointName(method, path);
      const known = byApi.get(apiId);
      if (known?.has(name) === true) {
        return name;
      }
      if (status >= 400 || (known !== undefined && known.size >= namesMax)) {
        return `${method} /*`;
      }
      if (known === undefined) {
        byApi.set(apiId, new Set([name]));
      } else {
        known.add(name);
      }
      return name;
    },
  };
}
