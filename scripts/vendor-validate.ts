import {
  type DescriptorProto,
  type EnumDescriptorProto,
  type FieldDescriptorProto,
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
} from "@bufbuild/protobuf/wkt";

/**
 * The text of buf/validate/validate.proto, printed from the descriptor inside @bufbuild/protovalidate.
 *
 * No npm package ships the file itself, and the registry that does is not npm.
 */
export async function validateProto(): Promise<string> {
  const { file_buf_validate_validate: desc } = await import(
    new URL(
      "../node_modules/@bufbuild/protovalidate/dist/esm/gen/buf/validate/validate_pb.js",
      import.meta.url,
    ).href
  );
  const file = desc.proto;
  const lines = [
    `syntax = "${file.syntax || "proto2"}";`,
    `package ${file.package};`,
    ...file.dependency.map((path: string) => `import "${path}";`),
    ...file.enumType.flatMap(enumLines),
    ...file.messageType.flatMap(messageLines),
    ...file.extension.map(
      (field: FieldDescriptorProto) => `extend ${field.extendee} { ${fieldLine(field)} }`,
    ),
  ];
  return `${lines.join("\n")}\n`;
}

function enumLines(desc: EnumDescriptorProto): string[] {
  return [
    `enum ${desc.name} {`,
    ...desc.reservedRange.map((range) => `reserved ${range.start};`),
    ...desc.value.map((value) => `${value.name} = ${value.number};`),
    "}",
  ];
}

function messageLines(desc: DescriptorProto): string[] {
  const oneofs = desc.oneofDecl.map((oneof, index) => ({
    name: oneof.name,
    fields: desc.field.filter((field) => oneofOf(field) === index),
  }));
  return [
    `message ${desc.name} {`,
    ...desc.nestedType.flatMap(messageLines),
    ...desc.enumType.flatMap(enumLines),
    ...desc.reservedRange.map((range) => `reserved ${range.start};`),
    ...desc.extensionRange.map(
      (range) => `extensions ${range.start} to ${range.end > 500_000_000 ? "max" : range.end - 1};`,
    ),
    ...desc.field.filter((field) => oneofOf(field) === undefined).map(fieldLine),
    ...oneofs
      .filter(({ fields }) => fields.length > 0)
      .flatMap(({ name, fields }) => [`oneof ${name} {`, ...fields.map(memberLine), "}"]),
    "}",
  ];
}

function oneofOf(field: FieldDescriptorProto): number | undefined {
  return Object.hasOwn(field, "oneofIndex") && !field.proto3Optional ? field.oneofIndex : undefined;
}

function fieldLine(field: FieldDescriptorProto): string {
  const label =
    field.label === Label.REPEATED
      ? "repeated"
      : field.label === Label.REQUIRED
        ? "required"
        : "optional";
  return `${label} ${memberLine(field)}`;
}

function memberLine(field: FieldDescriptorProto): string {
  const type = field.typeName === "" ? Type[field.type].toLowerCase() : field.typeName;
  return `${type} ${field.name} = ${field.number};`;
}
