import { listRoutes } from "../routes.ts";
import { formatTable } from "./table.ts";

/** Print everything that a server serves. */
export async function routes(print: (line: string) => void): Promise<void> {
  const rows = (await listRoutes())
    .map(({ method, path, rpc, access, rateClass }) => [method, path, rpc, access, rateClass])
    .sort((a, b) => (String(a[1]) < String(b[1]) ? -1 : 1));
  for (const line of formatTable(["METHOD", "PATH", "RPC", "ACCESS", "RATE CLASS"], rows)) {
    print(line);
  }
}
