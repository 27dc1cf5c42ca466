import { readFileSync } from "node:fs";
import { createRegistry } from "@bufbuild/protobuf";
import { createEcmaScriptPlugin, type Plugin } from "@bufbuild/protoplugin";
import { readContract } from "./contract.ts";
import { describeServices } from "./document.ts";

/** The plugin that describes every `callora.*` service in one `openapi.json`. */
export function openapiPlugin(): Plugin {
  const version = readVersion();
  return createEcmaScriptPlugin({
    name: "protoc-gen-openapi",
    version: `v${version}`,
    generateTs(schema) {
      const contract = readContract(createRegistry(...schema.allFiles));
      const services = schema.files
        .flatMap((file) => file.services)
        .filter((service) => service.typeName.startsWith("callora."));
      const document = describeServices(services, contract, { title: "Callora", version });
      schema.generateFile("openapi.json").print(JSON.stringify(document, null, 2));
    },
  });
}

function readVersion(): string {
  const manifest: unknown = JSON.parse(
    readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
  );
  const { version } = manifest as { version: string };
  return version;
}
