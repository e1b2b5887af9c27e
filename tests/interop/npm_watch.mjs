// The published npm client watches both accounts: prints what it is shown, until the left one holds `goal`.
import { createRequire } from "node:module";
const require = createRequire(process.env.CELLSTORE_NODE_MODULES + "/here.js");
const { ConvexClient } = require("convex/browser");
const { anyApi: api } = require("convex/server");
const ws = require("ws");

const [url, goal] = process.argv.slice(2);
const client = new ConvexClient(url, { webSocketConstructor: ws, unsavedChangesWarning: false });
const say = (value) => console.log(JSON.stringify(value));
client.onUpdate(api.ledger.amounts, {}, (amounts) => {
  // what the client holds of the other two queries at this very moment
  const held = ["left", "right"].map((name) => client.client.localQueryResult("ledger:amount", { name }));
  say([amounts, held]);
  if (amounts.left === Number(goal)) client.close().then(() => process.exit(0));
});
for (const name of ["left", "right"]) client.onUpdate(api.ledger.amount, { name }, () => {});
setTimeout(() => process.exit(1), 60000);
