// An unmodified ConvexClient behind a rough network: so many mutations, then what it holds.
import { createRequire } from "node:module";
const require = createRequire(process.env.CELLSTORE_NODE_MODULES + "/here.js");
const { ConvexClient } = require("convex/browser");
const { anyApi } = require("convex/server");
const [url, count] = process.argv.slice(2);
const client = new ConvexClient(url, { skipConvexDeploymentUrlCheck: true, webSocketConstructor: require("ws"), logger: false });
let held = null, torn = 0;
client.onUpdate(anyApi.bank.entries, {}, (entries) => {
  held = entries;
  if (entries.some((entry, place) => entry.total !== place + 1)) torn++;
});
const results = await Promise.all([...Array(Number(count)).keys()].map((n) => client.mutation(anyApi.bank.post, { who: "npm", n })));
console.log(JSON.stringify({ what: "done", value: { results, torn } }));
process.stdin.once("data", () => {
  console.log(JSON.stringify({ what: "held", value: { held, torn } }));
  process.exit(0);
});
