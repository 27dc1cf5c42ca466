import type { TestProject } from "vitest/node";
import { type ClusterInfo, startCluster } from "./cluster.ts";

declare module "vitest" {
  interface ProvidedContext {
    cluster: ClusterInfo;
  }
}

/** One PostgreSQL for the run, with the migrated template that each test file copies. */
export default async function setup(project: TestProject) {
  const cluster = await startCluster();
  await cluster.createTemplate("migrations");
  project.provide("cluster", cluster.info);
  return () => cluster.stop();
}
