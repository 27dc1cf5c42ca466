import { readdir } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { DescMethod, DescService } from "@bufbuild/protobuf";

/** Services of the contract that nothing serves yet. */
export const unbuiltServices: readonly string[] = ["callora.metering.v1.CorrectionService"];

/** Every method of our contract that is served, whatever was added since. */
export async function contractMethods(): Promise<DescMethod[]> {
  const root = "gen/callora";
  const names = await readdir(root, { recursive: true });
  const files = names.filter((name) => name.endsWith("_pb.ts")).sort();
  const modules = await Promise.all(
    files.map((name): Promise<object> => import(pathToFileURL(path.resolve(root, name)).href)),
  );
  const services = modules.flatMap((module) => Object.values(module).filter(isService));
  return services
    .filter(({ typeName }) => !unbuiltServices.includes(typeName))
    .flatMap(({ methods }) => methods);
}

function isService(value: unknown): value is DescService {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "service";
}
