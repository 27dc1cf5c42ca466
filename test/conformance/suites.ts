import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { createRegistry, fromJson, type JsonValue } from "@bufbuild/protobuf";
import { parse } from "yaml";
import {
  Codec,
  Compression,
  Protocol,
  StreamType,
  HTTPVersion as Version,
} from "../gen/connectrpc/conformance/v1/config_pb.ts";
import { file_connectrpc_conformance_v1_service } from "../gen/connectrpc/conformance/v1/service_pb.ts";
import {
  type TestCase,
  TestMode,
  type TestSuite,
  TestSuiteSchema,
} from "../gen/connectrpc/conformance/v1/suite_pb.ts";

/** How a client speaks to the server. */
export interface Setup {
  readonly version: Version;
  readonly protocol: Protocol;
  readonly codec: Codec;
  readonly compression: Compression;
}

/** One case of a suite under one setup. */
export interface Case {
  readonly name: string;
  readonly setup: Setup;
  readonly test: TestCase;
  /** Whether the client shows a certificate. */
  readonly isCertified: boolean;
}

/** Finds the messages that the cases hold. */
export const registry = createRegistry(file_connectrpc_conformance_v1_service);

/** Read the suites of a folder. Throws if a file is not one. */
export async function readSuites(directory: string): Promise<TestSuite[]> {
  const names = (await readdir(directory)).filter((name) => name.endsWith(".yaml")).toSorted();
  if (names.length === 0) {
    throw new Error(`Cannot read suites: ${directory} holds no YAML file`);
  }
  return Promise.all(
    names.map(async (name) => {
      const json: JsonValue = parse(await readFile(join(directory, name), "utf8"));
      try {
        return fromJson(TestSuiteSchema, json, { registry });
      } catch (cause) {
        throw new Error(`Cannot read suite ${name}: ${String(cause)}`, { cause });
      }
    }),
  );
}

/** The cases of a suite that exercise a server, under every setup that they are made for. */
export function casesOf(suite: TestSuite): Case[] {
  if (suite.mode === TestMode.CLIENT) {
    return [];
  }
  const setups = setupsOf(suite);
  // Neighbours differ in their setup, so that what runs at the same time shares no connection.
  return suite.testCases.flatMap((test) =>
    setups
      .filter((setup) => isPossible(setup, test.request?.streamType ?? StreamType.UNSPECIFIED))
      .map((setup) => ({
        name: `${suite.name}/${nameOf(setup)}/${test.request?.testName}`,
        setup,
        test,
        isCertified: suite.reliesOnTlsClientCerts,
      })),
  );
}

function setupsOf(suite: TestSuite): Setup[] {
  const versions = or(suite.relevantHttpVersions, [Version.HTTP_VERSION_1, Version.HTTP_VERSION_2]);
  const protocols = or(suite.relevantProtocols, [
    Protocol.CONNECT,
    Protocol.GRPC,
    Protocol.GRPC_WEB,
  ]);
  const codecs = or(suite.relevantCodecs, [Codec.PROTO, Codec.JSON]);
  const compressions = or(suite.relevantCompressions, [
    Compression.IDENTITY,
    Compression.GZIP,
    Compression.BR,
  ]);
  return versions.flatMap((version) =>
    protocols.flatMap((protocol) =>
      version === Version.HTTP_VERSION_3 || !isVersionOf(protocol, version)
        ? []
        : codecs.flatMap((codec) =>
            compressions.map((compression) => ({
              version,
              protocol,
              codec,
              compression,
            })),
          ),
    ),
  );
}

function or<Value>(values: readonly Value[], all: readonly Value[]): readonly Value[] {
  return values.length === 0 ? all : values;
}

/** gRPC is defined for HTTP/2 alone. */
function isVersionOf(protocol: Protocol, version: Version): boolean {
  return protocol !== Protocol.GRPC || version === Version.HTTP_VERSION_2;
}

/** HTTP/1.1 cannot be relied upon to carry both directions at once. */
function isPossible({ version }: Setup, streamType: StreamType): boolean {
  const isBidi =
    streamType === StreamType.HALF_DUPLEX_BIDI_STREAM ||
    streamType === StreamType.FULL_DUPLEX_BIDI_STREAM;
  return version === Version.HTTP_VERSION_2 || !isBidi;
}

/** `h2/grpc/proto/gzip`. */
export function nameOf({ version, protocol, codec, compression }: Setup): string {
  return [
    version === Version.HTTP_VERSION_1 ? "h1" : "h2",
    keyOf(Protocol, protocol),
    keyOf(Codec, codec),
    keyOf(Compression, compression),
  ].join("/");
}

function keyOf(values: Readonly<Record<string, number>>, wanted: number): string {
  const key = Object.keys(values).find((one) => values[one] === wanted) ?? String(wanted);
  return key.toLowerCase().replace("_", "-");
}
