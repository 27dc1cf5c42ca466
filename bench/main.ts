// Figures beside their peers, measured in one run: `npm run bench -- [name] [--json] [--quick]`.
import { edgeBench } from "./edge.ts";
import { type Figure, isMet, ratioOf } from "./figure.ts";
import { gatewayBench } from "./gateway.ts";
import { ingestBench } from "./ingest.ts";
import { keysBench } from "./keys.ts";
import { startBench } from "./start.ts";

/** All of its figures at the end, or each as soon as it is there. */
type Bench = (options: { quick: boolean }) => Promise<Figure[]> | AsyncIterable<Figure>;

const benches: Record<string, Bench> = {
  start: startBench,
  edge: edgeBench,
  keys: keysBench,
  ingest: ingestBench,
  gateway: gatewayBench,
};

const args = process.argv.slice(2);
const names = args.filter((arg) => !arg.startsWith("--"));
const unknown = names.filter((name) => !(name in benches));
if (unknown.length > 0) {
  const known = Object.keys(benches).join(", ");
  process.stderr.write(`Cannot run bench "${unknown.join(", ")}": there are ${known}\n`);
  process.exit(2);
}
for (const [name, bench] of Object.entries(benches)) {
  if (names.length === 0 || names.includes(name)) {
    await run(name, bench);
  }
}

async function run(name: string, bench: Bench): Promise<void> {
  try {
    for await (const figure of await bench({ quick: args.includes("--quick") })) {
      console.log(args.includes("--json") ? toJson(name, figure) : toLine(name, figure));
    }
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}

function toJson(bench: string, figure: Figure): string {
  const { name, value, unit, peer, peerValue, bar, n } = figure;
  const ratio = ratioOf(figure);
  const ok = isMet(figure);
  return JSON.stringify({
    bench,
    name,
    value,
    unit,
    peer,
    peer_value: peerValue,
    ratio,
    bar: bar?.at ?? null,
    ok,
    n,
  });
}

function toLine(bench: string, figure: Figure): string {
  const { name, value, unit, peer, peerValue, bar, n } = figure;
  const verdict = bar === undefined ? "    " : isMet(figure) ? "ok  " : "MISS";
  const limit = bar === undefined ? "" : `${bar.of} ${bar.limit} ${bar.at}; `;
  const beside = `${peer} ${peerValue} ${unit}, ratio ${ratioOf(figure)}`;
  return `${verdict} ${bench}: ${name} ${value} ${unit} (${limit}${beside}; n = ${n})`;
}
