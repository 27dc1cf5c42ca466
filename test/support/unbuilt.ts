/** RPCs of the contract that answer UNIMPLEMENTED so far. Whoever builds one takes it out. */
export const unbuilt: readonly string[] = [
  "catalog.v1.CatalogService/UnpublishApi",
  "catalog.v1.CatalogService/ListOwnApis",
  "catalog.v1.CatalogService/ListPrices",

  "credits.v1.BudgetService/ListBudgets",
  "credits.v1.BudgetService/PutBudget",
  "credits.v1.BudgetService/DeleteBudget",
  "credits.v1.BudgetService/GetAlert",
  "credits.v1.BudgetService/SetAlert",

  "credits.v1.InvoiceService/ListInvoices",
  "credits.v1.InvoiceService/GetInvoice",
];
