// Fetch the third-party protos from npm packages into proto/. Run by `npm run vendor`.
import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { validateProto } from "./vendor-validate.ts";

const copies = {
  "google/api/annotations.proto": "google-proto-files/google/api/annotations.proto",
  "google/api/http.proto": "google-proto-files/google/api/http.proto",
  "google/api/httpbody.proto": "google-proto-files/google/api/httpbody.proto",
  "google/rpc/error_details.proto": "google-proto-files/google/rpc/error_details.proto",
  "google/rpc/status.proto": "google-proto-files/google/rpc/status.proto",
  "grpc/health/v1/health.proto": "grpc-health-check/proto/health/v1/health.proto",
  "grpc/reflection/v1/reflection.proto":
    "@grpc/reflection/build/proto/grpc/reflection/v1/reflection.proto",
  "grpc/reflection/v1alpha/reflection.proto":
    "@grpc/reflection/build/proto/grpc/reflection/v1alpha/reflection.proto",
};

for (const [target, source] of Object.entries(copies)) {
  await mkdir(dirname(`proto/${target}`), { recursive: true });
  await copyFile(`node_modules/${source}`, `proto/${target}`);
}
await mkdir("proto/buf/validate", { recursive: true });
await writeFile("proto/buf/validate/validate.proto", await validateProto());
