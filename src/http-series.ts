import { Counter, type Histogram, type Registry } from "prom-client";

/** What is counted apart. */
export interface HttpLabels {
  method: string;
  route: string;
  status_code: string;
}

/** The requests of one method, route and status. */
interface Series {
  readonly labels: HttpLabels;
  count: number;
  seconds: number;
  /** How many took so long, by the first of the buckets that holds them. Those that took longer are in none. */
  readonly buckets: number[];
}

const requestsName = "http_requests_total";
const durationName = "http_request_duration_seconds";

/**
 * The counts and times of HTTP requests. Kept here, and handed to Prometheus only when it asks: to find the series of a
 * request by its labels, as the library does for each, takes longer than all else that is noted of it.
 */
export class HttpSeries {
  readonly #bounds: readonly number[];
  readonly #all: Series[] = [];
  /** By route, then method, then status. */
  readonly #known = new Map<string, Map<string, Series[]>>();

  /** `bounds`: those of the buckets, in seconds, the least first. */
  constructor(registry: Registry, bounds: readonly number[]) {
    this.#bounds = bounds;
    const all = this.#all;
    new Counter({
      name: requestsName,
      help: "HTTP requests that were answered",
      labelNames: ["method", "route", "status_code"],
      registers: [registry],
      collect() {
        this.reset();
        for (const { labels, count } of all) {
          this.inc({ ...labels }, count);
        }
      },
    });
    const durations = {
      name: durationName,
      help: "Time from an HTTP request's headers to the end of its response",
      type: "histogram",
      aggregator: "sum",
      get: async () => ({ ...durations, values: all.flatMap((series) => this.#valuesOf(series)) }),
      reset: () => {},
    };
    // All that the registry asks of a metric.
    registry.registerMetric(durations as unknown as Histogram<string>);
  }

  /** Count a request. There are as many series as there are combinations of what is passed. */
  add(route: string, method: string, status: number, seconds: number): void {
    const series =
      this.#known.get(route)?.get(method)?.[status] ?? this.#open(route, method, status);
    series.count += 1;
    series.seconds += seconds;
    const bounds = this.#bounds;
    for (let index = 0; index < bounds.length; index++) {
      if (seconds <= (bounds[index] as number)) {
        series.buckets[index] = (series.buckets[index] as number) + 1;
        return;
      }
    }
  }

  #open(route: string, method: string, status: number): Series {
    const labels = { method, route, status_code: status === 0 ? "OTHER" : String(status) };
    const series = { labels, count: 0, seconds: 0, buckets: this.#bounds.map(() => 0) };
    const byMethod = this.#known.get(route) ?? new Map<string, Series[]>();
    const byStatus = byMethod.get(method) ?? [];
    byStatus[status] = series;
    this.#known.set(route, byMethod.set(method, byStatus));
    this.#all.push(series);
    return series;
  }

  #valuesOf({ labels, count, seconds, buckets }: Series) {
    let sum = 0;
    const held = this.#bounds.map((le, index) => {
      sum += buckets[index] ?? 0;
      return { labels: { le, ...labels }, value: sum, metricName: `${durationName}_bucket` };
    });
    return [
      ...held,
      { labels: { le: "+Inf", ...labels }, value: count, metricName: `${durationName}_bucket` },
      { labels, value: seconds, metricName: `${durationName}_sum` },
      { labels, value: count, metricName: `${durationName}_count` },
    ];
  }
}
