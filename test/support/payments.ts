import { randomUUID } from "node:crypto";
import { CreditService } from "../../gen/callora/credits/v1/credit_service_pb.ts";
import { listDeposits } from "../../src/credits/deposit-store.ts";
import { confirmPayment } from "../../src/credits/purchase.ts";
import { must, type startTestApp } from "./app.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** A purchase that is paid, though not on the chain: the treasury's sums do not agree after it. Returns its id. */
export async function buyCredit(
  app: Pick<App, "client" | "db">,
  buyer: { token: string },
  what: { planId: string } | { amountNanos: bigint } = { planId: "starter" },
): Promise<string> {
  const { purchase } = await app.client(CreditService, buyer.token).purchaseCredits(what);
  const { id, priceNanos } = must(purchase);
  const payment = {
    source: "stellar",
    eventId: id,
    purchaseId: id,
    amountNanos: priceNanos,
    at: new Date(),
    detail: "",
  };
  await app.db.systemTransaction((tx) => confirmPayment(tx, payment, new Date()));
  return id;
}

/** A deposit that names no purchase, as if it had come on the chain. Returns its id. */
export async function leaveDeposit(
  { db }: Pick<App, "db">,
  amountNanos = 1_000_000_000n,
  at = new Date(),
): Promise<string> {
  const eventId = randomUUID();
  const payment = { source: "stellar", eventId, purchaseId: null, amountNanos, at, detail: "x" };
  return db.systemTransaction(async (tx) => {
    await confirmPayment(tx, payment, new Date());
    const [last] = await listDeposits(tx, { withAssigned: false, after: "", limit: 1 });
    return must(last).id;
  });
}
