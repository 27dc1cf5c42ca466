import { type AddressPolicy, addressLiteral, portOf } from "../lib/address.ts";
import type { Violation } from "../rpc/errors.ts";

/**
 * What is wrong with an upstream's address: that the gateway could never call it. A host that is a name is checked
 * again, by its addresses, whenever the gateway connects.
 */
export function checkUpstream(
  text: string,
  { field, addresses }: { field: string; addresses: AddressPolicy },
): Violation[] {
  const refuse = (description: string) => [{ field, description }];
  const url = URL.parse(text);
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    return refuse("must be an http or https address");
  }
  if (url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== "") {
    return refuse("must not carry credentials, a query or a fragment");
  }
  const literal = addressLiteral(url);
  if (literal !== undefined && !addresses.allows(literal, portOf(url))) {
    return refuse("is an address that the gateway must not reach");
  }
  return [];
}
