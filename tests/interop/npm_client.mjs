// The published npm client, unmodified: prints one JSON line per thing seen.
import { createRequire } from "node:module";
const require = createRequire(process.env.CELLSTORE_NODE_MODULES + "/here.js");
const { ConvexClient, ConvexHttpClient } = require("convex/browser");
const { anyApi: api } = require("convex/server");
const ws = require("ws");

const [url, adminKey] = process.argv.slice(2);
const say = (what, value) => console.log(JSON.stringify({ what, value }, (_, v) =>
  typeof v === "bigint" ? { bigint: String(v) }
  : v instanceof ArrayBuffer ? { bytes: [...new Uint8Array(v)] }
  : Object.is(v, -0) ? "-0" : Number.isNaN(v) ? "NaN" : v === Infinity ? "Infinity" : v));
const failure = (error) => ({ message: error.message, data: error.data, kind: error.constructor.name });
const attempt = async (what, promise) => promise.then((v) => say(what, v), (e) => say(what, failure(e)));
const soon = (test) => new Promise((resolve, reject) => {
  const began = Date.now();
  const timer = setInterval(() => {
    if (test()) { clearInterval(timer); resolve(); }
    if (Date.now() - began > 20000) { clearInterval(timer); reject(new Error("nothing came")); }
  }, 2);
});

const client = new ConvexClient(url, { webSocketConstructor: ws, unsavedChangesWarning: false });
const seen = [], counts = [];
client.onUpdate(api.chat.list, {}, (messages) => seen.push(messages));
client.onUpdate(api.chat.count, {}, (count) => counts.push(count));
client.onUpdate(api.chat.broken_query, {}, () => {}, (error) => say("broken query", failure(error)));
client.onUpdate(api.chat.secret, {}, () => {}, (error) => say("internal query", failure(error)));
client.onUpdate(api.chat.nothing_here, {}, () => {}, (error) => say("missing query", failure(error)));
await soon(() => seen.length && counts.length);
say("first", seen.at(-1));
const id = await client.mutation(api.chat.send, { author: "ann", body: "hello" });
say("shown when the promise resolved", [seen.at(-1), counts.at(-1)]);
say("id", typeof id === "string" && id.length === 32);
await attempt("bug", client.mutation(api.chat.fail, {}));
await attempt("refusal", client.mutation(api.chat.refuse, { data: { code: 7, list: [1n, "x"] } }));
await attempt("refusal with null", client.mutation(api.chat.refuse, { data: null }));
await attempt("wrong arguments", client.mutation(api.chat.send, { author: 5 }));
await attempt("action", client.action(api.chat.act, { author: "bo" }));
await soon(() => counts.at(-1) === 2);
say("after the action", seen.at(-1));
await attempt("action refusal", client.action(api.chat.refuse_action, {}));
const values = { big: 2n ** 62n, small: 5n, nan: NaN, negative: -0, infinite: Infinity, bytes: new Uint8Array([1, 2]).buffer,
  text: "äöü €", nested: [{ a: [null, true, 1.5] }] };
await attempt("values", client.query(api.chat.echo, { value: values }));
await attempt("many in order", Promise.all([...Array(20).keys()].map((n) =>
  client.mutation(api.chat.send, { author: "many", body: String(n) }))).then((ids) => ids.length));
say("order", seen.at(-1).filter((m) => m.author === "many").map((m) => Number(m.body)));
client.client.setAdminAuth?.(adminKey);
await client.close();

const http = new ConvexHttpClient(url);
await attempt("http query", http.query(api.chat.count, {}));
await attempt("http mutation", http.mutation(api.chat.send, { author: "http", body: "hi" }));
await attempt("http action", http.action(api.chat.act, { author: "http" }));
await attempt("http refusal", http.mutation(api.chat.refuse, { data: "no" }));
await attempt("http bug", http.mutation(api.chat.fail, {}));
await attempt("http consistent", (http.consistentQuery ?? http.query).call(http, api.chat.count, {})); // old ones have none
await attempt("http internal", http.query(api.chat.secret, {}));
http.setAdminAuth(adminKey);
await attempt("http admin internal", http.query(api.chat.secret, {}));
await attempt("http function", http.function?.(api.chat.count, undefined, {}) ?? http.query(api.chat.count, {}));
say("end", null);
process.exit(0);
