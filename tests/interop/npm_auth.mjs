// The published npm client signs in with JSON Web Tokens: prints one JSON line per thing seen.
import { createRequire } from "node:module";
const require = createRequire(process.env.CELLSTORE_NODE_MODULES + "/here.js");
const { ConvexClient, ConvexHttpClient } = require("convex/browser");
const { anyApi: api } = require("convex/server");
const ws = require("ws");

const [url, given] = process.argv.slice(2);
const { ann, refused, brief } = JSON.parse(given);
const say = (what, value) => console.log(JSON.stringify({ what, value }));
setTimeout(() => process.exit(1), 60000);
const until = async (test) => { while (!test()) await new Promise((resolve) => setTimeout(resolve, 5)); };
const open = (options) => new ConvexClient(url, { webSocketConstructor: ws, logger: false, unsavedChangesWarning: false, ...options });

// A client that gets the tokens of a list, one for each time it asks, the last one again and again.
function signedIn(tokens, options = {}) {
  const client = open(options), log = { asked: [], changes: [], who: [] };
  client.onUpdate(api.chat.who, {}, (who) => log.who.push(who));
  client.setAuth(async ({ forceRefreshToken }) => {
    log.asked.push(forceRefreshToken);
    return tokens[Math.min(log.asked.length, tokens.length) - 1];
  }, (isSignedIn) => log.changes.push(isSignedIn));
  return [client, log];
}

{
  const [client, log] = signedIn(ann, { expectAuth: true });
  await until(() => log.changes.length && log.who.length && log.asked.length === 2);
  say("mutation in its name", typeof (await client.mutation(api.chat.send, { author: "ann", body: "hi" })));
  say("signed in", log);
  client.client.clearAuth();
  await until(() => log.who.at(-1) === null);
  say("signed out", log.who);
  await client.close();
}
{
  const [client, log] = signedIn(refused);
  await until(() => log.changes.includes(false) && log.who.includes(null));
  say("refused", { ...log, still: await client.query(api.chat.count, {}) });
  await client.close();
}
{
  const [client, log] = signedIn([brief, brief, ann[0]]);
  await until(() => log.changes.length);
  await new Promise((resolve) => setTimeout(resolve, 3200));
  say("after the token's end", typeof (await client.mutation(api.chat.send, { author: "ann", body: "still" })));
  say("renewed", log);
  await client.close();
}
{
  const http = new ConvexHttpClient(url);
  http.setAuth(ann[0]);
  say("http", await http.query(api.chat.who, {}));
  http.setAuth(refused[0]);
  say("http refused", await http.query(api.chat.who, {}).catch((error) => JSON.parse(error.message).code));
}
say("end", null);
process.exit(0);
