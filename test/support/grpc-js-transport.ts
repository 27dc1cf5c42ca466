import { once } from "node:events";
import {
  create,
  type DescMessage,
  type DescMethod,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Code, ConnectError, type StreamResponse, type Transport } from "@connectrpc/connect";
import { type CallOptions, type Client, Metadata, type ServiceError } from "@grpc/grpc-js";

/** Calls through @grpc/grpc-js for clients made by connect's createClient. */
export function grpcJsTransport(client: Client): Transport {
  return {
    unary(method, signal, timeoutMs, header, input) {
      const { promise, resolve, reject } =
        Promise.withResolvers<MessageShape<typeof method.output>>();
      const received = { header: new Headers(), trailer: new Headers() };
      let settle = () => {};
      const call = client.makeUnaryRequest(
        pathOf(method),
        serializer(method.input),
        deserializer(method.output),
        create(method.input, input),
        toMetadata(header),
        optionsOf(timeoutMs),
        (error, message) => {
          // The status, which brings the trailers, comes after this.
          settle = () => (error || !message ? reject(toConnectError(error)) : resolve(message));
        },
      );
      call.on("metadata", (metadata) => copyMetadata(metadata, received.header));
      call.on("status", ({ metadata }) => {
        copyMetadata(metadata, received.trailer);
        settle();
      });
      signal?.addEventListener("abort", () => call.cancel());
      const { parent: service } = method;
      return promise.then((message) => ({ stream: false, service, method, message, ...received }));
    },
    async stream(method, signal, timeoutMs, header, input) {
      // Of every kind of stream: they differ in nothing on the wire.
      const call = client.makeBidiStreamRequest(
        pathOf(method),
        serializer(method.input),
        deserializer(method.output),
        toMetadata(header),
        optionsOf(timeoutMs),
      );
      const received = { header: new Headers(), trailer: new Headers() };
      const begun = Promise.race([once(call, "metadata"), once(call, "status")]).catch(() => {});
      call.on("metadata", (metadata) => copyMetadata(metadata, received.header));
      call.on("status", ({ metadata }) => copyMetadata(metadata, received.trailer));
      // It may come before anybody reads, and is lost to the reader then.
      let failure: ServiceError | undefined;
      call.on("error", (error) => {
        failure = error as ServiceError;
      });
      signal?.addEventListener("abort", () => call.cancel());
      void send();
      await begun;
      const { parent: service } = method;
      return { stream: true, service, method, message: receive(), ...received } as StreamResponse<
        typeof method.input,
        typeof method.output
      >;

      async function send() {
        for await (const message of input) {
          if (!call.write(create(method.input, message))) {
            await once(call, "drain");
          }
        }
        call.end();
      }

      async function* receive() {
        try {
          yield* call;
        } catch (error) {
          failure = error as ServiceError;
        }
        if (failure !== undefined) {
          throw toConnectError(failure);
        }
      }
    },
  };
}

function pathOf({ parent, name }: DescMethod): string {
  return `/${parent.typeName}/${name}`;
}

function serializer<Desc extends DescMessage>(desc: Desc) {
  return (message: MessageShape<Desc>) => Buffer.from(toBinary(desc, message));
}

function deserializer<Desc extends DescMessage>(desc: Desc) {
  return (bytes: Buffer) => fromBinary(desc, bytes);
}

function optionsOf(timeoutMs: number | undefined): CallOptions {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}

// connect hands binary values over as base64, grpc-js as bytes.
function toMetadata(header: HeadersInit | undefined): Metadata {
  const metadata = new Metadata();
  new Headers(header).forEach((value, name) => {
    metadata.add(name, name.endsWith("-bin") ? Buffer.from(value, "base64") : value);
  });
  return metadata;
}

function copyMetadata(metadata: Metadata, to: Headers): void {
  for (const [name, values] of Object.entries(metadata.toHttp2Headers())) {
    for (const value of [values].flat()) {
      to.append(name, String(value));
    }
  }
}

function toConnectError(error: ServiceError | null): ConnectError {
  const code: number = error?.code ?? Code.Unknown;
  return new ConnectError(error?.details ?? "no reply", code);
}
