import { listRoutes } from "../routes.ts";
import { formatTable } from "./table.ts";

/** Print everything that a server serves, as a table or as one JSON array. */
export async function routes(
  { json }: { json: boolean },
  print: (line: string) => void,
): Promise<void> {
  const all = await listRoutes();
  if (json) {
    print(JSON.stringify(all, null, 2));
    return;
  }
  const rows = all.map(({ method, path, rpc, access, rateClass }) => [
    method,
    path,
    rpc,
    access,
    rateClass,
  ]);
  for (const line of formatTable(["METHOD", "PATH", "RPC", "ACCESS", "RATE CLASS"], rows)) {
    print(line);
  }
}
