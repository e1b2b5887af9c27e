import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { encodeTs } from "../../../kernel_ext/cellstore_kernel/static/codec.js";
import { Painter, RelayLink, SocketLink } from "../../../kernel_ext/cellstore_kernel/static/links.js";
import { directBase } from "../../../kernel_ext/cellstore_kernel/static/page.js";

const at = (querySet, ts) => ({ querySet, identity: 0, ts: encodeTs(BigInt(ts)) });
const updated = (queryId, value) => ({ type: "QueryUpdated", queryId, value, logLines: [], journal: null });

/** A painter whose frames are drawn by hand. */
function handPainter() {
  const frames = [];
  const painter = new Painter((paint) => frames.push(paint));
  return { painter, frames, draw: () => frames.splice(0).forEach((paint) => paint()) };
}

class FakeSocket {
  constructor(url) {
    this.url = url;
    this.sent = [];
    FakeSocket.made.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {}
  step(start, end, modifications) {
    this.onmessage({ data: JSON.stringify({ type: "Transition", startVersion: start, endVersion: end, modifications }) });
  }
}

function dial(painter) {
  FakeSocket.made = [];
  return new SocketLink("http://host:1/base/", "default", painter, (url) => new FakeSocket(url));
}

test("two widgets of one commit are painted in one frame", (t) => {
  mock.timers.enable({ apis: ["setInterval", "setTimeout", "Date"] });
  t.after(() => mock.timers.reset());
  const { painter, frames, draw } = handPainter();
  const link = dial(painter);
  const [socket] = FakeSocket.made;
  assert.equal(socket.url, "ws://host:1/base/cellstore/api/sync");
  const seen = { a: [], b: [] };
  link.watch("m:a", "{}", (result) => seen.a.push(result.value));
  link.watch("m:b", "{}", (result) => seen.b.push(result.value));
  socket.onopen();
  socket.step(at(0, 0), at(1, 10), [updated(0, 1), updated(1, 1)]);
  assert.equal(frames.length, 1);
  socket.step(at(1, 10), at(1, 20), [updated(0, 2), updated(1, 2)]); // before the frame: the newest state wins
  assert.equal(frames.length, 1);
  draw();
  assert.deepEqual(seen, { a: [2], b: [2] });
});

test("a lost server is shown, dialled again with growing patience, and asked everything again", (t) => {
  mock.timers.enable({ apis: ["setInterval", "setTimeout", "Date"] });
  t.after(() => mock.timers.reset());
  const { painter, draw } = handPainter();
  const link = dial(painter);
  const values = [];
  link.watch("m:a", "{}", (result) => values.push(result.value));
  FakeSocket.made[0].onopen();
  assert.equal(link.state, "connected");
  FakeSocket.made[0].step(at(0, 0), at(1, 10), [updated(0, "old")]);
  draw();
  FakeSocket.made[0].onclose({ code: 1006, reason: "" });
  assert.equal(link.state, "reconnecting");
  mock.timers.tick(300);
  const again = FakeSocket.made[1];
  again.onopen();
  assert.equal(link.state, "connected");
  assert.deepEqual(again.sent.map((frame) => frame.type), ["Connect", "ModifyQuerySet"]);
  again.step(at(0, 0), at(1, 12), [updated(0, "new")]);
  draw();
  assert.deepEqual(values, ["old", "new"]);
});

test("a server that falls silent is given up", (t) => {
  mock.timers.enable({ apis: ["setInterval", "setTimeout", "Date"] });
  t.after(() => mock.timers.reset());
  const link = dial(handPainter().painter);
  FakeSocket.made[0].onopen();
  mock.timers.tick(50_000);
  assert.equal(link.state, "connected");
  for (let second = 0; second < 20; second += 1) mock.timers.tick(1_000);
  assert.ok(FakeSocket.made.length > 1);
});

test("a widget that cannot show its result does not stop the others", (t) => {
  t.mock.method(console, "error", () => {});
  const { painter, draw } = handPainter();
  const seen = [];
  painter.queue(() => {
    throw new Error("mine");
  });
  painter.queue((result) => seen.push(result), 5);
  draw();
  assert.deepEqual(seen, [5]);
});

function fakeModel() {
  const handlers = [];
  return {
    sent: [],
    send(message) {
      this.sent.push(message);
    },
    on: (_event, handler) => handlers.push(handler),
    off() {},
    hear(content, body) {
      for (const handler of handlers) handler(content, [new TextEncoder().encode(JSON.stringify(body))]);
    },
  };
}

const step = (number, results, full = false) => ({ number, full, ts: "5", link: "connected", results });

test("a relay paints one kernel message in one frame and asks for what it missed", () => {
  const { painter, frames, draw } = handPainter();
  const link = new RelayLink(painter, "relay");
  const model = fakeModel();
  link.adopt(model);
  const seen = [];
  link.watch("m:a", "{}", (result) => seen.push(["a", result.value]));
  link.watch("m:b", "{}", (result) => seen.push(["b", result.value]));
  assert.deepEqual(model.sent[0], { kind: "want", keys: ["m:a\0{}"] });
  model.hear({ kind: "step" }, step(1, [{ key: "m:a\0{}", value: 1 }, { key: "m:b\0{}", value: 1 }]));
  assert.equal(frames.length, 1);
  draw();
  assert.deepEqual(seen, [["a", 1], ["b", 1]]);
  model.sent.length = 0;
  model.hear({ kind: "step" }, step(3, [{ key: "m:a\0{}", value: 3 }]));
  assert.deepEqual(model.sent, [{ kind: "want" }]);
});

test("the same step through a second model is heard once", () => {
  const { painter, draw } = handPainter();
  const link = new RelayLink(painter, "relay");
  const [one, two] = [fakeModel(), fakeModel()];
  link.adopt(one);
  link.adopt(two);
  const seen = [];
  link.watch("m:a", "{}", (result) => seen.push(result.value));
  one.hear({ kind: "step" }, step(1, [{ key: "m:a\0{}", value: 1 }]));
  draw();
  two.hear({ kind: "step" }, step(1, [{ key: "m:a\0{}", value: 0 }]));
  draw();
  assert.deepEqual(seen, [1]);
});

test("a call through the kernel is answered by its reply, failures included", async () => {
  const link = new RelayLink(handPainter().painter, "embedded");
  const model = fakeModel();
  link.adopt(model);
  const said = [];
  const good = link.call("mutation", "m:set", '{"x":1}', undefined, (lines) => said.push(...lines));
  const bad = link.call("mutation", "m:set", "{}");
  const [first, second] = model.sent;
  assert.deepEqual([first.kind, first.call, first.path, first.args], ["call", "mutation", "m:set", '{"x":1}']);
  model.hear({ kind: "reply" }, { id: first.id, value: 7, logs: ["[LOG] set"] });
  model.hear({ kind: "reply" }, { id: second.id, error: { code: "ValidationError", message: "no" } });
  assert.equal(await good.answer, 7);
  assert.deepEqual(said, ["[LOG] set"]);
  await assert.rejects(bad.answer, { code: "ValidationError" });
});

test("an action through the kernel tells how far it is, and can be stopped", async () => {
  const link = new RelayLink(handPainter().painter, "embedded");
  const model = fakeModel();
  link.adopt(model);
  const heard = [];
  const running = link.call("action", "m:do", "{}", (far) => heard.push(far));
  const { id } = model.sent[0];
  model.hear({ kind: "progress" }, { id, done: 3, total: null, note: "pages" });
  model.hear({ kind: "progress" }, { id: "of another page", done: 1, total: 2, note: "" });
  assert.deepEqual(heard, [{ done: 3, total: null, note: "pages" }]);
  running.stop();
  assert.deepEqual(model.sent.at(-1), { kind: "stop", id });
  model.hear({ kind: "reply" }, { id, error: { code: "Cancelled", message: "stopped" } });
  await assert.rejects(running.answer, { code: "Cancelled" });
});

test("a page dials its own server only when that is the one the kernel uses", () => {
  const page = { href: "http://localhost:8888/lab/tree/a.ipynb" };
  const config = { baseUrl: "/b%40se/" };
  const base = "http://localhost:8888/b%40se/";
  assert.equal(directBase({ url: "http://127.0.0.1:8888/b%40se/", own: true }, config, page), base);
  assert.equal(directBase({ url: "http://127.0.0.1:8888/b%40se/", own: false }, config, page), base);
  assert.equal(directBase({ url: "http://127.0.0.1:3210/", own: false }, config, page), null);
  assert.equal(directBase({ url: "", own: false }, config, page), null);
  assert.equal(directBase({ url: "http://127.0.0.1:8888/", own: true }, null, page), null);
});
