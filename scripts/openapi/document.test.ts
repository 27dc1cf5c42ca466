import { readFileSync } from "node:fs";
import type { JsonObject } from "@bufbuild/protobuf";
import { Validator } from "@seriousme/openapi-schema-validator";
import { describe, expect, test } from "vitest";
import {
  at,
  buildImage,
  generate,
  isBeside,
  isProduct,
  nodesOf,
  operationsOf,
  rootPath,
} from "./testing.ts";

const image = buildImage();
const names = image.file.map(({ name }) => name).filter(isBeside);
const contract: JsonObject = JSON.parse(generate(image, names.filter(isProduct)));
const withTests: JsonObject = JSON.parse(generate(image, names));

const documents: [string, JsonObject][] = [
  ["the contract", contract],
  ["the contract with the test services", withTests],
];

describe.for(documents)("the document of %s", ([, document]) => {
  test("says what it is", () => {
    expect(document).toMatchObject({
      openapi: "3.1.0",
      info: { title: "Callora", version: expect.stringMatching(/^\d+\.\d+\.\d+/) },
    });
  });

  test("resolves every $ref", () => {
    const refs = [...nodesOf(document)].flatMap(({ $ref }) =>
      typeof $ref === "string" ? [$ref] : [],
    );

    expect(refs.length).toBeGreaterThan(50);
    for (const ref of refs) {
      expect(ref).toMatch(/^#\/components\//);
      at(document, ...ref.slice(2).split("/"));
    }
  });

  test("refers to every schema", () => {
    const refs = [...nodesOf(document)].map(({ $ref }) => $ref);

    for (const name of Object.keys(at(document, "components", "schemas"))) {
      expect(refs).toContain(`#/components/schemas/${name}`);
    }
  });

  test("is valid OpenAPI 3.1", async () => {
    const validator = new Validator();

    const { valid, errors } = await validator.validate(structuredClone(document));

    expect(errors ?? []).toEqual([]);
    expect(valid).toBe(true);
    expect(validator.version).toBe("3.1");
  });

  test("has no two operations of one id", () => {
    const ids = operationsOf(document).map(({ value }) => value.operationId);

    expect(ids.length).toBeGreaterThan(20);
    expect(new Set(ids).size).toBe(ids.length);
  });

  test("declares exactly the parameters of each path", () => {
    for (const { path, method, value } of operationsOf(document)) {
      const parameters = (value.parameters ?? []) as JsonObject[];
      const inPath = parameters.filter((each) => each.in === "path");
      const named = [...path.matchAll(/\{([^{}]+)\}/g)].map(([, name]) => name);
      expect(
        inPath.map(({ name }) => name),
        `${method} ${path}`,
      ).toEqual(named);
      expect(inPath.every(({ required }) => required === true)).toBe(true);
      const places = parameters.map((each) => `${each.in} ${each.name}`);
      expect(new Set(places).size).toBe(places.length);
      expect(parameters.every((each) => typeof each.schema === "object")).toBe(true);
    }
  });

  test("gives each operation a success, an error and a known tag", () => {
    const tags = (document.tags as JsonObject[]).map(({ name }) => name);
    for (const { value } of operationsOf(document)) {
      const statuses = Object.keys(at(value, "responses"));
      expect(statuses.filter((status) => /^2\d\d$/.test(status))).toHaveLength(1);
      expect(statuses).toContain("503");
      expect(statuses.at(-1)).toBe("default");
      expect(tags).toEqual(expect.arrayContaining(value.tags as string[]));
    }
  });

  test("puts no body on GET and DELETE", () => {
    for (const { method, value } of operationsOf(document)) {
      expect(["get", "delete"].includes(method) && "requestBody" in value).toBe(false);
    }
  });

  test("holds patterns that compile and required properties that exist", () => {
    for (const { pattern, required, properties } of nodesOf(document)) {
      if (typeof pattern === "string") {
        expect(() => new RegExp(pattern, "u")).not.toThrow();
      }
      if (Array.isArray(required) && properties !== undefined) {
        expect(Object.keys(properties as JsonObject)).toEqual(expect.arrayContaining(required));
      }
    }
  });
});

test("the committed document is the one that the contract gives", () => {
  expect(JSON.parse(readFileSync(`${rootPath}gen/openapi.json`, "utf8"))).toEqual(contract);
});

test("the order of the files does not matter", () => {
  expect(generate(image, names.toReversed())).toBe(generate(image, names));
});
