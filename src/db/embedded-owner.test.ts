import { expect, test } from "vitest";
import { chooseOwner } from "./embedded-owner.ts";

const passwd = [
  "root:x:0:0:root:/root:/bin/bash",
  "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
].join("\n");
const withPostgres = `${passwd}\npostgres:x:101:104::/var/lib/postgresql:/bin/bash\n`;
const root = { uid: 0, hasName: true, data: null, passwd };

test.for([
  { facts: { ...root, passwd: withPostgres }, owner: { uid: 101, gid: 104 } },
  { facts: root, owner: { uid: 65534, gid: 65534 } },
  { facts: { ...root, data: { uid: 7, gid: 8 } }, owner: { uid: 7, gid: 8 } },
  { facts: { ...root, data: { uid: 0, gid: 0 } }, owner: { uid: 65534, gid: 65534 } },
  { facts: { ...root, uid: 1000 }, owner: null },
  { facts: { ...root, uid: 1000, data: { uid: 1000, gid: 5 }, hasName: false }, owner: null },
])("PostgreSQL never runs as root, and as one user for one directory: $owner", (row) => {
  const owner = chooseOwner(row.facts);

  expect(owner).toEqual(row.owner);
});

test.for([
  { facts: { ...root, passwd: "root:x:0:0:root:/root:/bin/bash" }, reason: /no user postgres/ },
  { facts: { ...root, uid: 1000, hasName: false }, reason: /user 1000 has no entry/ },
  { facts: { ...root, uid: 1000, data: { uid: 101, gid: 104 } }, reason: /belongs to user 101/ },
])("a user that cannot run PostgreSQL is told of DATABASE_URL: $reason", ({ facts, reason }) => {
  expect(() => chooseOwner(facts)).toThrow(reason);
  expect(() => chooseOwner(facts)).toThrow("DATABASE_URL");
});
