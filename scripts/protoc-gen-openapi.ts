#!/usr/bin/env node
// A buf plugin: writes openapi.json. Run by `buf generate`, see buf.gen.yaml.
import { runNodeJs } from "@bufbuild/protoplugin";
import { openapiPlugin } from "./openapi/plugin.ts";

runNodeJs(openapiPlugin());
