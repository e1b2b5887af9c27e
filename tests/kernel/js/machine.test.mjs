import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeTs } from "../../../kernel_ext/cellstore_kernel/static/codec.js";
import { Machine, failureOf } from "../../../kernel_ext/cellstore_kernel/static/machine.js";

const SESSION = "0f0e0d0c-0000-4000-8000-000000000000";
const at = (querySet, ts) => ({ querySet, identity: 0, ts: encodeTs(BigInt(ts)) });
const sent = (effects) => effects.filter((e) => e.send).map((e) => JSON.parse(e.send));
const updated = (queryId, value) => ({ type: "QueryUpdated", queryId, value, logLines: [], journal: null });

function transition(start, end, modifications = []) {
  return JSON.stringify({ type: "Transition", startVersion: start, endVersion: end, modifications });
}

function opened() {
  const machine = new Machine(SESSION, () => 1);
  machine.opened();
  return machine;
}

test("opening says hello, in exact values, and everything that is wanted", () => {
  const machine = new Machine(SESSION, () => 17);
  const [id, effects] = machine.subscribe("tasks:open", '{"limit":5}');
  assert.deepEqual(effects, []);
  const [hello, queries] = sent(machine.opened());
  assert.deepEqual(
    [hello.type, hello.sessionId, hello.exact, hello.connectionCount, hello.lastCloseReason, hello.clientTs],
    ["Connect", SESSION, true, 0, "InitialConnect", 17],
  );
  assert.deepEqual([queries.baseVersion, queries.newVersion], [0, 1]);
  assert.deepEqual(queries.modifications, [
    { type: "Add", queryId: id, udfPath: "tasks:open", args: [{ limit: 5 }], journal: null },
  ]);
});

test("who comes back says which result it holds, and keeps what it is not told again", () => {
  const machine = opened();
  machine.subscribe("a:b", "{}");
  machine.subscribe("a:c", "{}");
  machine.received(transition(at(0, 0), at(2, 10), [{ ...updated(0, [1, 2]), digest: "ab12" }, updated(1, 5)]));
  machine.lost("gone");
  const [, queries] = sent(machine.opened());
  assert.deepEqual(queries.modifications.map((add) => add.holds), ["ab12", undefined]);
  const patched = { type: "QueryPatched", queryId: 0, splices: [[2, 0, [3]]], logLines: [], journal: null, digest: "cd34" };
  const [first] = machine.received(transition(at(0, 0), at(1, 20), [updated(1, 6)]));
  assert.deepEqual([...first.step.changed.keys()], [1]);
  assert.deepEqual(machine.result(0).value, [1, 2]);
  machine.received(transition(at(1, 20), at(1, 30), [patched]));
  machine.lost("gone");
  assert.equal(sent(machine.opened())[1].modifications[0].holds, "cd34");
  assert.deepEqual(machine.result(0).value, [1, 2, 3]);
});

test("equal questions are asked once and end with their last watcher", () => {
  const machine = opened();
  const [first, asked] = machine.subscribe("a:b", "{}");
  const [second, again] = machine.subscribe("a:b", "{}");
  assert.equal(first, second);
  assert.equal(sent(asked).length, 1);
  assert.deepEqual(again, []);
  assert.deepEqual(machine.unsubscribe(first), []);
  assert.deepEqual(sent(machine.unsubscribe(first))[0].modifications, [{ type: "Remove", queryId: first }]);
});

test("a transition is one step of everything it changes; equal results are no change", () => {
  const machine = opened();
  machine.subscribe("a:b", "{}");
  machine.subscribe("a:c", "{}");
  const [first] = machine.received(transition(at(0, 0), at(3, 10), [updated(0, [1]), updated(1, "x")]));
  assert.deepEqual([...first.step.changed.keys()], [0, 1]);
  assert.equal(first.step.ts, 10n);
  const [second] = machine.received(transition(at(3, 10), at(3, 20), [updated(0, [1]), updated(1, "y")]));
  assert.deepEqual([...second.step.changed.entries()].map(([id, r]) => [id, r.value]), [[1, "y"]]);
});

test("other log lines of an equal result are news; the same ones are not", () => {
  const machine = opened();
  machine.subscribe("a:b", "{}");
  const said = (...logLines) => ({ ...updated(0, 1), logLines });
  machine.received(transition(at(0, 0), at(2, 10), [said("[LOG] one")]));
  const [again] = machine.received(transition(at(2, 10), at(2, 20), [said("[LOG] one")]));
  assert.equal(again.step.changed.size, 0);
  const [other] = machine.received(transition(at(2, 20), at(2, 30), [said("[WARN] two")]));
  assert.deepEqual(other.step.changed.get(0).logs, ["[WARN] two"]);
});

test("a patch changes the list it is for, and is refused where there is none", () => {
  const machine = opened();
  machine.subscribe("a:b", "{}");
  const patched = (splices) => ({ type: "QueryPatched", queryId: 0, splices, logLines: [], journal: null });
  const [early] = machine.received(transition(at(0, 0), at(2, 5), [patched([[0, 0, [1]]])]));
  assert.match(early.restart, /no list/);
  const other = opened();
  other.subscribe("a:b", "{}");
  const [first] = other.received(transition(at(0, 0), at(2, 10), [updated(0, [1, 2, 3, 4])]));
  const before = first.step.changed.get(0).value;
  const [second] = other.received(transition(at(2, 10), at(2, 20), [patched([[1, 1, []], [4, 0, [5, 6]]])]));
  assert.deepEqual(second.step.changed.get(0).value, [1, 3, 4, 5, 6]);
  assert.deepEqual(before, [1, 2, 3, 4]);
  const [wrong] = other.received(transition(at(2, 20), at(2, 30), [patched([[9, 1, []]])]));
  assert.match(wrong.restart, /does not fit/);
});

test("a transition out of step is refused whole", () => {
  const machine = opened();
  machine.subscribe("a:b", "{}");
  const [effect] = machine.received(transition(at(1, 5), at(2, 10), [updated(0, 1)]));
  assert.match(effect.restart, /does not start where/);
  assert.equal(machine.result(0), null);
});

test("a mutation resolves when its effects are visible, not when it is answered", () => {
  const machine = opened();
  const [id, effects] = machine.request("mutation", "a:set", '{"x":1}');
  assert.deepEqual(sent(effects)[0], { type: "Mutation", requestId: id, udfPath: "a:set", args: [{ x: 1 }] });
  const answer = { type: "MutationResponse", requestId: id, success: true, result: 5, ts: encodeTs(30n), logLines: [] };
  assert.deepEqual(machine.received(JSON.stringify(answer)), []);
  const [step, done] = machine.received(transition(at(0, 0), at(1, 30)));
  assert.ok(step.step);
  assert.deepEqual([done.settled.id, done.settled.outcome.value], [id, 5]);
});

test("a failed mutation resolves at once and carries the user's own lines", () => {
  const machine = opened();
  const [id] = machine.request("mutation", "a:set", "{}");
  const error = { code: "FunctionError", message: "boom", traceback: "Cell In[2], line 3", function: "a:set" };
  const answer = { type: "MutationResponse", requestId: id, success: false, result: "…", logLines: [], error };
  const [done] = machine.received(JSON.stringify(answer));
  assert.deepEqual(done.settled.outcome.failure, error);
});

test("a failure is known by its class, where its code says more", () => {
  const error = { code: "NotUnique", class: "ValidationError", message: "taken" };
  const { code, class: kind } = failureOf(error);
  assert.deepEqual([code, kind], ["NotUnique", "ValidationError"]);
  assert.ok(!("class" in failureOf({ code: "Overloaded", message: "full" })));
});

test("an action tells how far it is, and is stopped while it runs; a mutation never is", () => {
  const machine = opened();
  const [action] = machine.request("action", "a:do", "{}");
  const [mutation] = machine.request("mutation", "a:set", "{}");
  const said = '{"type":"ActionProgress","requestId":' + action + ',"done":7.0,"total":20,"note":"rows"}';
  assert.deepEqual(machine.received(said), [{ progress: { id: action, done: 7, total: 20, note: "rows" } }]);
  assert.deepEqual(sent(machine.stop(action)), [{ type: "CancelAction", requestId: action }]);
  assert.deepEqual(machine.stop(mutation), []);
  machine.received(JSON.stringify({ type: "ActionResponse", requestId: action, success: true, result: 1, logLines: [] }));
  assert.deepEqual(machine.stop(action), []);
});

test("after a loss mutations are sent again under the same id, actions end in doubt, results stay", () => {
  const machine = opened();
  const [query] = machine.subscribe("a:b", "{}");
  machine.received(transition(at(0, 0), at(2, 10), [updated(query, 1)]));
  const [mutation] = machine.request("mutation", "a:set", "{}");
  const [action] = machine.request("action", "a:do", "{}");
  const lost = machine.lost("gone");
  assert.deepEqual(lost.map((e) => [e.settled.id, e.settled.outcome.failure.code]), [[action, "Disconnected"]]);
  assert.equal(machine.result(query).value, 1);
  const [hello, , again] = sent(machine.opened());
  assert.deepEqual([hello.connectionCount, hello.lastCloseReason], [1, "gone"]);
  assert.equal(hello.maxObservedTimestamp, encodeTs(10n));
  assert.deepEqual([again.type, again.requestId], ["Mutation", mutation]);
  const [step] = machine.received(transition(at(0, 0), at(1, 12), [updated(query, 1)]));
  assert.equal(step.step.changed.size, 0); // nothing to paint: the same value as before
});

test("a large transition may come in pieces", () => {
  const machine = opened();
  machine.subscribe("a:b", "{}");
  const text = transition(at(0, 0), at(2, 10), [updated(0, "long")]);
  const chunk = (partNumber, part) =>
    JSON.stringify({ type: "TransitionChunk", chunk: part, partNumber, totalParts: 2, transitionId: "t" });
  assert.deepEqual(machine.received(chunk(0, text.slice(0, 30))), []);
  const [step] = machine.received(chunk(1, text.slice(30)));
  assert.equal(step.step.changed.get(0).value, "long");
});

test("a refused identity and a fatal error stop the page from dialling", () => {
  assert.equal(opened().received('{"type":"AuthError","error":"no"}')[0].stop.code, "Unauthenticated");
  assert.equal(opened().received('{"type":"FatalError","error":"no"}')[0].stop.code, "FatalError");
  assert.deepEqual(opened().received('{"type":"Ping"}'), []);
  assert.ok(opened().received("not JSON")[0].restart);
});
