// The peer of the transfer benchmark: Node's HTTP server over SQLite, one durable transaction a request.
//
//   node bank_peer.mjs FILE ACCOUNTS        prints its port; POST /?a=1&b=2 moves one unit of money; GET / tells the total
import http from "node:http";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.CELLSTORE_NODE_MODULES ?? process.cwd()}/`);
const Database = require("better-sqlite3");
const [file, accounts] = process.argv.slice(2);
const db = new Database(file);
db.pragma("journal_mode = WAL");
db.pragma("synchronous = FULL");
db.exec("CREATE TABLE accounts (id INTEGER PRIMARY KEY, body TEXT NOT NULL)");
const insert = db.prepare("INSERT INTO accounts (id, body) VALUES (?, ?)");
db.transaction(() => {
  for (let id = 0; id < Number(accounts); id++) insert.run(id, JSON.stringify({ number: id, balance: 1000 }));
})();
const get = db.prepare("SELECT body FROM accounts WHERE id = ?").pluck();
const put = db.prepare("UPDATE accounts SET body = ? WHERE id = ?");
const total = db.prepare("SELECT sum(json_extract(body, '$.balance')) FROM accounts").pluck();
const transfer = db.transaction((a, b) => {
  const source = JSON.parse(get.get(a)), target = JSON.parse(get.get(b));
  source.balance -= 1;
  target.balance += 1;
  put.run(JSON.stringify(source), a);
  put.run(JSON.stringify(target), b);
});
const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (request.method === "GET") return response.end(String(total.get()));
  transfer.immediate(Number(url.searchParams.get("a")), Number(url.searchParams.get("b")));
  response.end("ok");
});
server.keepAliveTimeout = 60000;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
