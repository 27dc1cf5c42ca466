import { randomUUID } from "node:crypto";
import { readConfig } from "../config.ts";
import { usdcText } from "../lib/money.ts";
import { checkAudit } from "./demo/audit.ts";
import { callGateway, type CallPlan, makeCalls } from "./demo/calls.ts";
import { type Clients, createClients } from "./demo/clients.ts";
