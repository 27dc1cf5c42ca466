/** RPCs of the contract that answer UNIMPLEMENTED so far. Whoever builds one takes it out. */
export const unbuilt: readonly string[] = [
  "catalog.v1.CatalogService/UnpublishApi",
  "catalog.v1.CatalogService/ListOwnApis",
  "catalog.v1.CatalogService/ListPrices",

  "credits.v1.CreditService/ListGrants",
  "credits.v1.CreditService/GrantTestCredits",
  "credits.v1.CreditService/ListPlans",
  "credits.v1.CreditService/PurchaseCredits",
  "credits.v1.CreditService/GetPurchase",
  "credits.v1.CreditService/AdjustCredits",
  "credits.v1.CreditService/RefundPurchase",

  "credits.v1.InvoiceService/ListInvoices",
  "credits.v1.InvoiceService/GetInvoice",
];
