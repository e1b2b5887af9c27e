/**
 * How this page hears from the store. Two links with one face:
 *
 *     watch(path, args, show) → stop      `show(result, ts)` with the newest result, painted with all others at once
 *     call(kind, path, args, onProgress, onSaid)  → { answer, stop }
 *                                         answer: the value, or rejects with a Failure; stop(): end an action;
 *                                         onProgress({ done, total, note }): how far it is; onSaid(lines): what it printed
 *     state, problem, transport           what the badge says; `onState(listener) → stop`
 *
 *     SocketLink   the page's own WebSocket to the server it came from, with the page's login
 *     RelayLink    values come and calls go through the kernel, where there is no such server
 *
 * One paint: results of a commit reach all their watchers in one animation frame, so two widgets never disagree on
 * screen. A hidden page gets no frames; what waits is then the newest result of each watcher, never a queue.
 */

import { decode } from "./codec.js";
import { Machine, failureOf, far } from "./machine.js";

const BACKOFF_FIRST_MS = 100;
const BACKOFF_MAX_MS = 10_000;
const SILENCE_MAX_MS = 60_000; // the server pings every 15 s
const CHECK_MS = 5_000;
const STABLE_MS = 10_000; // a connection that stood this long starts the backoff anew
const KERNEL_PATIENCE_MS = 400; // after this long without an answer the kernel is said to be busy

/** Shows what changed, all at once. */
export class Painter {
  constructor(schedule = (paint) => requestAnimationFrame(paint)) {
    this._schedule = schedule;
    this._pending = new Map();
    this._asked = false;
  }

  /** Have `show` called in the next frame; an earlier call of the same one that still waits is dropped. */
  queue(show, result, ts) {
    this._pending.set(show, [result, ts]);
    if (this._asked) return;
    this._asked = true;
    this._schedule(() => this.paint());
  }

  drop(show) {
    this._pending.delete(show);
  }

  paint() {
    this._asked = false;
    const pending = this._pending;
    this._pending = new Map();
    for (const [show, [result, ts]] of pending) {
      try {
        show(result, ts);
      } catch (error) {
        console.error("cellstore: a widget could not show its result", error); // the others still paint
      }
    }
  }
}

class Link {
  constructor(painter, transport) {
    this.painter = painter;
    this.transport = transport;
    this.state = "connecting"; // connecting connected reconnecting closed
    this.problem = ""; // why it is not connected, for a person
    this._listeners = new Set();
  }

  onState(listener) {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  }

  _become(state, problem = "") {
    if (state === this.state && problem === this.problem) return;
    this.state = state;
    this.problem = problem;
    for (const listener of [...this._listeners]) listener();
  }
}

export class SocketLink extends Link {
  /** @param {string} base the server's base URL, absolute, with trailing slash */
  constructor(base, deployment, painter, makeSocket = (url) => new WebSocket(url)) {
    super(painter, "direct");
    this.base = base;
    const within = !deployment || deployment === "default" ? "" : `d/${encodeURIComponent(deployment)}/`;
    this._url = `ws${base.slice(4)}cellstore/${within}api/sync`;
    this._makeSocket = makeSocket;
    this._machine = new Machine(uuid());
    this._watchers = new Map(); // query id → Set of show
    this._waiting = new Map(); // request id → {resolve, reject}
    this._socket = null;
    this._failures = 0;
    this._timer = 0;
    this._heard = 0;
    this._since = 0;
    setInterval(() => this._check(), CHECK_MS);
    for (const event of ["online", "focus", "pageshow"]) globalThis.addEventListener?.(event, () => this._hurry());
    this._dial();
  }

  get ts() {
    return this._machine.ts;
  }

  watch(path, args, show) {
    const [id, effects] = this._machine.subscribe(path, args);
    if (!this._watchers.has(id)) this._watchers.set(id, new Set());
    this._watchers.get(id).add(show);
    const known = this._machine.result(id);
    if (known) this.painter.queue(show, known, this._machine.ts);
    this._perform(effects);
    return () => {
      const watchers = this._watchers.get(id);
      if (!watchers?.delete(show)) return;
      if (watchers.size === 0) this._watchers.delete(id);
      this.painter.drop(show);
      this._perform(this._machine.unsubscribe(id));
    };
  }

  call(kind, path, args, onProgress, onSaid) {
    const [id, effects] = this._machine.request(kind, path, args);
    const answer = new Promise((resolve, reject) => this._waiting.set(id, { resolve, reject, onProgress, onSaid }));
    this._perform(effects);
    return { answer, stop: () => this._perform(this._machine.stop(id)) };
  }

  _dial() {
    clearTimeout(this._timer);
    this._timer = 0;
    const socket = (this._socket = this._makeSocket(this._url));
    this._heard = Date.now();
    socket.onopen = () => {
      if (socket !== this._socket) return;
      this._heard = this._since = Date.now();
      this._become("connected");
      this._perform(this._machine.opened());
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this._socket) return;
      this._heard = Date.now();
      this._perform(this._machine.received(data));
    };
    socket.onclose = ({ code, reason }) => {
      if (socket === this._socket) this._lost(reason || `closed with code ${code}`);
    };
  }

  _lost(reason) {
    const socket = this._socket;
    this._socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    const stood = this._machine.isOpen && Date.now() - this._since > STABLE_MS;
    this._perform(this._machine.lost(reason));
    if (this.state === "closed") return;
    this._failures = stood ? 0 : this._failures + 1;
    this._become("reconnecting", this.problem || "the server is away");
    if (this._failures >= 3) this._diagnose();
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** this._failures);
    this._timer = setTimeout(() => this._dial(), ceiling * (0.5 + Math.random() / 2));
  }

  /** A socket does not say why it was refused; an ordinary request does. */
  async _diagnose() {
    let problem = "the server is away";
    try {
      const answer = await fetch(`${this.base}api/status`, { headers: xsrf(), cache: "no-store" });
      if (answer.status === 403 || answer.status === 401) problem = "signed out: reload this page and sign in";
      else if (answer.ok) problem = "the server is there, but cellstore does not answer: is its server extension enabled?";
    } catch {
      // no server: as said
    }
    if (this.state === "reconnecting") this._become("reconnecting", problem);
  }

  /** A laptop that slept, a network that vanished: no close event tells of these. */
  _check() {
    if (this._socket && Date.now() - this._heard > SILENCE_MAX_MS) this._lost("InactiveServer");
  }

  _hurry() {
    this._check();
    if (this._timer) this._dial();
  }

  _perform(effects) {
    for (const effect of effects) {
      if (effect.send !== undefined) this._socket?.send(effect.send);
      else if (effect.step) this._step(effect.step);
      else if (effect.settled) this._settle(effect.settled);
      else if (effect.progress) this._waiting.get(effect.progress.id)?.onProgress?.(effect.progress);
      else if (effect.restart !== undefined) this._lost(effect.restart);
      else if (effect.stop) this._stop(effect.stop);
    }
  }

  _step({ ts, changed }) {
    this._failures = 0;
    for (const [id, result] of changed) {
      for (const show of this._watchers.get(id) ?? []) this.painter.queue(show, result, ts);
    }
  }

  _settle({ id, outcome }) {
    const waiting = this._waiting.get(id);
    this._waiting.delete(id);
    waiting?.onSaid?.(outcome.logs);
    if (outcome.failure) waiting?.reject(outcome.failure);
    else waiting?.resolve(outcome.value);
  }

  _stop(failure) {
    this._become("closed", failure.message);
    this._lost("stopped");
    for (const { reject } of this._waiting.values()) reject(failure);
    this._waiting.clear();
  }
}

/**
 * Values through the kernel. Every widget model of this kernel feeds it: a step carries the results of one commit for
 * all widgets of the page and arrives as one message of whichever model the kernel chose to carry it.
 */
export class RelayLink extends Link {
  /** @param {boolean} mustAsk the kernel expects this page to hear the server itself, and relays only when asked */
  constructor(painter, transport, mustAsk = false) {
    super(painter, transport); // "relay" | "embedded"
    this._mustAsk = mustAsk;
    this.ts = 0n;
    this._number = -1; // of the last step; a gap means that messages were dropped
    this._known = new Map(); // key → result
    this._watchers = new Map(); // key → Set of show
    this._waiting = new Map(); // call id → {resolve, reject}
    this._models = new Set();
    this._nextCall = 0;
    this._become("connected");
  }

  /** A model of this kernel is there: hear what it carries, start from what it brings. */
  adopt(model, signal) {
    if (this._models.has(model)) return;
    this._models.add(model);
    const hear = (content, buffers) => this._message(content, buffers);
    model.on("msg:custom", hear);
    signal?.addEventListener("abort", () => {
      model.off("msg:custom", hear);
      this._models.delete(model);
    });
  }

  /** What a model was born with; older than anything a step has brought. */
  seed(key, result, ts) {
    if (result && !this._known.has(key)) {
      this._known.set(key, result);
      if (ts > this.ts) this.ts = ts;
    }
  }

  watch(path, args, show) {
    const key = `${path}\0${args}`;
    if (!this._watchers.has(key)) this._watchers.set(key, new Set());
    this._watchers.get(key).add(show);
    const known = this._known.get(key);
    if (known) this.painter.queue(show, known, this.ts);
    if (!known || this._mustAsk) this._ask({ kind: "want", keys: [key] });
    return () => {
      this._watchers.get(key)?.delete(show);
      this.painter.drop(show);
    };
  }

  call(kind, path, args, onProgress, onSaid) {
    const id = `${Math.random().toString(36).slice(2)}-${this._nextCall++}`;
    const answer = new Promise((resolve, reject) => this._waiting.set(id, { resolve, reject, onProgress, onSaid }));
    const busy = setTimeout(() => this._become("connected", "waiting for the kernel"), KERNEL_PATIENCE_MS);
    const calm = () => {
      clearTimeout(busy);
      this._become("connected");
    };
    answer.then(calm, calm);
    if (!this._ask({ kind: "call", id, call: kind, path, args })) {
      this._answer(id, { error: { code: "Disconnected", message: "the kernel is gone: run the cell again" } });
    }
    return { answer, stop: () => this._ask({ kind: "stop", id }) };
  }

  _ask(message) {
    const model = [...this._models].at(-1);
    if (!model) return false;
    try {
      model.send(message);
      return true;
    } catch {
      this._become("reconnecting", "the kernel is gone: run the cell again");
      return false;
    }
  }

  _message(content, buffers) {
    if (content?.kind === "gone") this._become("reconnecting", "the kernel closed its database");
    if (!["step", "reply", "progress"].includes(content?.kind)) return;
    const body = decode(new TextDecoder().decode(buffers[0]));
    if (content.kind === "reply") this._answer(body.id, body);
    else if (content.kind === "progress") this._waiting.get(body.id)?.onProgress?.(far(body));
    else this._step(body);
  }

  _step({ number, full, ts, link, results }) {
    if (number <= this._number && !full) return; // the same step through another model
    const gap = !full && this._number >= 0 && number > this._number + 1;
    this._number = Math.max(this._number, number);
    const at = BigInt(ts);
    if (at > this.ts) this.ts = at;
    for (const { key, value, error, logs } of results) {
      const result = { value: value ?? null, failure: error ? failureOf(error) : null, logs: logs ?? [], journal: null };
      this._known.set(key, result);
      for (const show of this._watchers.get(key) ?? []) this.painter.queue(show, result, this.ts);
    }
    if (link && link !== "connected") this._become("reconnecting", "the kernel has lost its server");
    else this._become("connected");
    if (gap) this._ask({ kind: "want" });
  }

  _answer(id, { value, error, logs }) {
    const waiting = this._waiting.get(id);
    this._waiting.delete(id);
    waiting?.onSaid?.(logs ?? []);
    if (error) waiting?.reject(failureOf(error));
    else waiting?.resolve(value ?? null);
  }
}

/** `crypto.randomUUID` exists on https and localhost only. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** The header Jupyter wants to see on requests that ride on its cookie. */
function xsrf() {
  const cookie = /(?:^|;\s*)_xsrf=([^;]*)/.exec(globalThis.document?.cookie ?? "");
  return cookie ? { "X-XSRFToken": decodeURIComponent(cookie[1]) } : {};
}
