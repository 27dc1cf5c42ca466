import { randomUUID } from "node:crypto";

/** A status and the JSON that came with it. */
type Answer = [status: number, body: unknown];

/** Calls of a person over REST. */
export function restOf({ url }: { url: string }, { token }: { token: string }) {
  return async (
    method: string,
    path: string,
    body?: object,
    requestId: string = randomUUID(),
  ): Promise<Answer> => {
    const response = await fetch(url + path, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        "content-type": "application/json",
        "x-request-id": requestId,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return [response.status, await response.json()];
  };
}
