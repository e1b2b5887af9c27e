/**
 * One page's conversation with the server as a pure machine: an event goes in, effects come out, a shell performs them.
 *
 *     {send: text}                            write this frame
 *     {step: {ts, changed}}                   everything shown is now of `ts`; `changed` maps query id → Result
 *     {settled: {id, outcome}}                a mutation or action is over
 *     {progress: {id, done, total, note}}     how far an action says it is
 *     {restart: reason}                       the server is out of step: drop the connection and dial again
 *     {stop: Failure}                         dialling again cannot help
 *
 * It speaks Convex's sync protocol with `"exact": true`: values in native JSON, failures with the user's own traceback.
 * The kernel's `cellstore.client.machine` is the same machine in Python.
 *
 * Order:     one `step` per transition, then the mutations it made visible: who waits for a mutation and then looks at
 *            a live value sees its effect.
 * Invariant: frames are sent only between `opened` and `lost`; opening says again everything the server must know.
 */

import { decode, decodeTs, encodeTs, same } from "./codec.js";

/**
 * @typedef {{code: string, message: string, traceback: string, data?: any, function: string, class?: string}} Failure
 * @typedef {{value: any, failure: Failure | null, logs: string[], journal: string | null, digest: string | null}} Result
 *   `digest`: by which the server knows it again, so that it is not told once more after a reconnect
 * @typedef {{value: any, failure: Failure | null, logs: string[], ts: bigint | null}} Outcome
 */

const START = { querySet: 0, identity: 0, ts: 0n };

class OutOfStep extends Error {}

export class Machine {
  /** @param {string} sessionId a uuid: the store recognises resent mutations by it @param {() => number} nowMs */
  constructor(sessionId, nowMs = Date.now) {
    this.sessionId = sessionId;
    this.nowMs = nowMs;
    this.isOpen = false;
    this.ts = 0n; // the moment everything shown is valid at; kept over a reconnect
    this._observedTs = 0n;
    this._connectionCount = 0;
    this._lastCloseReason = "InitialConnect";
    this._version = START;
    this._querySet = 0; // what the server has been sent on this connection
    this._queries = new Map(); // id → {id, path, args, key, watchers, result}
    this._byKey = new Map();
    this._nextQuery = 0;
    this._requests = new Map(); // id → {id, kind, text, sent, outcome}, in the order they were made
    this._nextRequest = 0;
    this._chunks = [];
  }

  /** Watch a query; args is native JSON text. @returns {[number, object[]]} its id, effects */
  subscribe(path, args) {
    const key = `${path}\0${args}`;
    const known = this._byKey.get(key);
    if (known) {
      known.watchers += 1;
      return [known.id, []];
    }
    const query = { id: this._nextQuery++, path, args, key, watchers: 1, result: null };
    this._queries.set(query.id, query);
    this._byKey.set(key, query);
    return [query.id, this.isOpen ? [this._modify([add(query)])] : []];
  }

  /** One watcher fewer. */
  unsubscribe(id) {
    const query = this._queries.get(id);
    if (!query || --query.watchers > 0) return [];
    this._queries.delete(id);
    this._byKey.delete(query.key);
    return this.isOpen ? [this._modify([`{"type":"Remove","queryId":${id}}`])] : [];
  }

  /** The newest result of a query; null while the first is on its way. @returns {Result | null} */
  result(id) {
    return this._queries.get(id)?.result ?? null;
  }

  /** Call a mutation or an action. @param {"mutation"|"action"} kind @returns {[number, object[]]} */
  request(kind, path, args) {
    const id = this._nextRequest++;
    const type = kind === "mutation" ? "Mutation" : "Action";
    const text = `{"type":"${type}","requestId":${id},"udfPath":${JSON.stringify(path)},"args":[${args}]}`;
    const request = { id, kind, text, sent: this.isOpen, outcome: null };
    this._requests.set(id, request);
    return [id, this.isOpen ? [{ send: text }] : []];
  }

  /** Have a running action stopped; it is answered all the same. */
  stop(id) {
    const request = this._requests.get(id);
    const runs = request?.kind === "action" && request.sent && this.isOpen;
    return runs ? [{ send: `{"type":"CancelAction","requestId":${id}}` }] : [];
  }

  /** A connection stands. */
  opened() {
    this.isOpen = true;
    const hello = {
      type: "Connect",
      sessionId: this.sessionId,
      connectionCount: this._connectionCount,
      lastCloseReason: this._lastCloseReason,
      clientTs: this.nowMs(),
      exact: true,
      deltas: true,
    };
    if (this._observedTs) hello.maxObservedTimestamp = encodeTs(this._observedTs);
    const effects = [{ send: JSON.stringify(hello) }, this._modify([...this._queries.values()].map(add))];
    for (const request of this._requests.values()) {
      request.sent = true;
      effects.push({ send: request.text });
    }
    return effects;
  }

  /** The connection is gone. Results stay; actions in flight end in doubt, mutations will be sent again. */
  lost(reason) {
    if (!this.isOpen) return [];
    this.isOpen = false;
    this._connectionCount += 1;
    this._lastCloseReason = reason;
    this._querySet = 0;
    this._version = START;
    this._chunks = [];
    const doubtful = [...this._requests.values()].filter((r) => r.kind === "action" && r.sent);
    const failure = {
      code: "Disconnected",
      message: "the connection was lost while this action ran; it may have been carried out",
      traceback: "",
      function: "",
    };
    return doubtful.map((request) => this._settle(request, { value: null, failure, logs: [], ts: null }));
  }

  /** A message arrived. @param {string} text */
  received(text) {
    let frame;
    try {
      frame = decode(text);
      return this._understand(frame, text);
    } catch (error) {
      return [{ restart: String(error.message ?? error) }];
    }
  }

  _understand(frame) {
    switch (frame.type) {
      case "Transition":
        return this._transition(frame);
      case "TransitionChunk":
        return this._chunk(frame);
      case "MutationResponse":
      case "ActionResponse":
        return this._response(frame);
      case "ActionProgress":
        return [{ progress: { id: frame.requestId, ...far(frame) } }];
      case "AuthError":
        return [{ stop: failureOf({ code: "Unauthenticated", message: frame.error || "sign in again" }) }];
      case "FatalError":
        return [{ stop: failureOf({ code: "FatalError", message: frame.error || "the server gave up on this page" }) }];
      default: // Ping, and whatever a newer server adds: being heard is enough
        return [];
    }
  }

  _transition(frame) {
    const start = versionOf(frame.startVersion);
    const end = versionOf(frame.endVersion);
    const here = this._version;
    if (start.querySet !== here.querySet || start.identity !== here.identity || start.ts !== here.ts) {
      throw new OutOfStep("a transition does not start where this page stands");
    }
    const changed = this._changes(frame.modifications); // nothing moves unless all of it was understood
    this._version = end;
    if (end.ts > this.ts) this.ts = end.ts;
    if (end.ts > this._observedTs) this._observedTs = end.ts;
    for (const [id, result] of changed) this._queries.get(id).result = result;
    return [{ step: { ts: this.ts, changed } }, ...this._visible()];
  }

  _changes(modifications) {
    const changed = new Map();
    for (const one of modifications) {
      const query = this._queries.get(one.queryId);
      if (one.type === "QueryRemoved" || !query) continue;
      const failure = one.type === "QueryFailed" ? failureOf(one.error, one.errorMessage, one) : null;
      const value = one.type === "QueryPatched" ? spliced(query.result?.value, one.splices) : (one.value ?? null);
      const result = { value, failure, logs: one.logLines ?? [], journal: one.journal ?? null, digest: one.digest ?? null };
      const old = query.result;
      if (old && ["value", "failure", "logs"].every((part) => same(old[part], result[part]))) query.result = result;
      else changed.set(one.queryId, result);
    }
    return changed;
  }

  _chunk(frame) {
    if (frame.partNumber !== this._chunks.length) throw new OutOfStep("a chunk arrived out of order");
    this._chunks.push(frame.chunk);
    if (this._chunks.length < frame.totalParts) return [];
    const text = this._chunks.join("");
    this._chunks = [];
    return this._understand(decode(text));
  }

  _response(frame) {
    const request = this._requests.get(frame.requestId);
    if (!request) return [];
    if (!frame.success) {
      const failure = failureOf(frame.error, frame.result, frame);
      return [this._settle(request, { value: null, failure, logs: frame.logLines ?? [], ts: null })];
    }
    const ts = frame.ts == null ? null : decodeTs(frame.ts);
    request.outcome = { value: frame.result, failure: null, logs: frame.logLines ?? [], ts };
    if (ts !== null && ts > this._observedTs) this._observedTs = ts;
    return request.kind === "action" ? [this._settle(request, request.outcome)] : this._visible();
  }

  /** Mutations whose effects are on screen by now. */
  _visible() {
    const done = [...this._requests.values()].filter((r) => r.outcome !== null && r.outcome.ts <= this._version.ts);
    return done.map((request) => this._settle(request, request.outcome));
  }

  _settle(request, outcome) {
    this._requests.delete(request.id);
    return { settled: { id: request.id, outcome } };
  }

  _modify(modifications) {
    this._querySet += 1;
    const head = `"type":"ModifyQuerySet","baseVersion":${this._querySet - 1},"newVersion":${this._querySet}`;
    return { send: `{${head},"modifications":[${modifications.join(",")}]}` };
  }
}

function add({ id, path, args, result }) {
  const journal = JSON.stringify(result?.journal ?? null);
  const holds = result?.digest ? `,"holds":${JSON.stringify(result.digest)}` : "";
  return `{"type":"Add","queryId":${id},"udfPath":${JSON.stringify(path)},"args":[${args}],"journal":${journal}${holds}}`;
}

/** A list with the changes `[place, removed, rows]` made, by rising places of the old list, which stays as it is. */
function spliced(old, changes) {
  if (!Array.isArray(old)) throw new OutOfStep("a patch arrived for a result that is no list here");
  const made = [];
  let at = 0;
  for (const [place, removed, rows] of changes) {
    if (!(at <= place && place + removed <= old.length)) throw new OutOfStep("a patch does not fit the list it is for");
    for (const row of old.slice(at, place)) made.push(row);
    for (const row of rows) made.push(row);
    at = place + removed;
  }
  return made.concat(old.slice(at));
}

/** How far an action says it is: plain numbers for the page. @returns {{done: number, total: number | null, note: string}} */
export function far({ done, total, note }) {
  return { done: Number(done), total: total == null ? null : Number(total), note: note ?? "" };
}

function versionOf({ querySet, identity, ts }) {
  return { querySet, identity, ts: decodeTs(ts) };
}

/** A failure from the `error` object of an exact server, or from the plain Convex fields of any other. @returns {Failure} */
export function failureOf(error, message = "", plain = {}) {
  const failure = {
    code: error?.code ?? ("errorData" in plain ? "ApplicationError" : "FunctionError"),
    message: String(error?.message ?? message ?? ""),
    traceback: String(error?.traceback ?? ""),
    function: String(error?.function ?? ""),
  };
  if (error?.class) failure.class = String(error.class);
  if (error && "data" in error) failure.data = error.data;
  else if ("errorData" in plain) failure.data = plain.errorData;
  return failure;
}
