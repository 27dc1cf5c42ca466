/** RPCs of the contract that answer UNIMPLEMENTED so far. Whoever builds one takes it out. */
export const unbuilt: readonly string[] = [
  "credits.v1.CreditService/ListGrants",
  "credits.v1.CreditService/GrantTestCredits",
  "credits.v1.CreditService/ListPlans",
  "credits.v1.CreditService/PurchaseCredits",
  "credits.v1.CreditService/GetPurchase",
  "credits.v1.CreditService/AdjustCredits",
  "credits.v1.CreditService/RefundPurchase",
];
