import { create, type DescMessage } from "@bufbuild/protobuf";

/** Whether the fields of a type have no defaults, which its messages would inherit. */
export function isPlain(desc: DescMessage): boolean {
  return Object.getPrototypeOf(create(desc)) === Object.prototype;
}

/** Prepare to make empty messages of a type. A copy is made faster than a message from its description. */
export function maker(desc: DescMessage): () => Record<string, unknown> {
  const empty = create(desc) as unknown as Record<string, unknown>;
  const lists = desc.fields.filter(({ fieldKind }) => fieldKind === "list");
  const listNames = lists.map(({ localName }) => localName);
  const maps = desc.fields.filter(({ fieldKind }) => fieldKind === "map");
  const mapNames = maps.map(({ localName }) => localName);
  const groupNames = desc.oneofs.map(({ localName }) => localName);
  return () => {
    const message = { ...empty };
    for (const name of listNames) {
      message[name] = [];
    }
    for (const name of mapNames) {
      message[name] = {};
    }
    for (const name of groupNames) {
      message[name] = { case: undefined };
    }
    return message;
  };
}
