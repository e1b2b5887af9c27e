/**
 * The quiet frame around every widget: what it shows, how it hears of it, whether it is current, and what went wrong.
 */

import { STYLE } from "./style.js";
import { h, literal, setText, timeText } from "./values.js";

const TRANSPORTS = {
  direct: "This page talks to the server itself: it stays current while the kernel is busy or gone.",
  relay: "Values come through the kernel, because this page was not served by the store's server.",
  embedded: "There is no server: the store runs inside the kernel.",
  kernel: "Drawn by the kernel whenever a query it used changes.",
};

/** @param {HTMLElement} el @param {string} kind @param {{label: string, link: any, signal?: AbortSignal}} options */
export class Frame {
  constructor(el, kind, { label, link, transport = link.transport }) {
    this.link = link;
    this.transport = transport;
    this.note = "";
    this.body = h("div", { class: "cs-body" });
    this._label = h("span", { class: "cs-label", title: label }, label);
    this._time = h("time", { class: "cs-time" });
    this._badge = h("span", { class: "cs-badge", role: "status" });
    this._error = h("div", { class: "cs-error", role: "alert", hidden: true });
    this._said = h("span", { class: "cs-last" });
    this._log = h("pre");
    this._logs = h("details", { class: "cs-logs", hidden: true }, h("summary", {}, this._said), this._log);
    this.head = h("div", { class: "cs-head" }, this._label, h("span", { class: "cs-space" }), this._time, this._badge);
    this.root = h(
      "div",
      { class: `cellstore cs-${kind}`, "data-lm-suppress-shortcuts": "true", "data-transport": transport },
      this.head,
      this._error,
      this.body,
      this._logs,
    );
    style(el);
    el.append(this.root);
    this._stop = link.onState(() => this.showState());
    this.showState();
  }

  close() {
    this._stop();
    this.root.remove();
  }

  /** Of which moment is what stands here? */
  showTime(ts, verb = "as of") {
    if (!ts) return;
    this._time.textContent = timeText(ts);
    this._time.title = `${verb} ${timeText(ts)}, timestamp ${ts}`;
    this.root.dataset.ts = String(ts);
  }

  showState() {
    const { state, problem } = this.link;
    const live = state === "connected";
    const word = live ? this.note || problem || this.transport : state === "connecting" ? "connecting" : "reconnecting";
    this._badge.textContent = word;
    this._badge.dataset.state = live ? (this.note || problem ? "waiting" : "live") : state;
    this._badge.title = live ? TRANSPORTS[this.transport] : problem || "looking for the server";
    this.root.dataset.state = state;
    if (state === "closed") this.showFailure({ code: "Closed", message: problem, traceback: "", function: "" });
  }

  /** What the function printed, logged and warned of in its newest run: the last line, and all of them on a click. */
  showLogs(lines = []) {
    this._logs.hidden = lines.length === 0;
    if (lines.length === 0) return;
    const texts = lines.map((line) => line.replace(/^\[LOG\] /, ""));
    const loud = lines.some((line) => /^\[(WARN|ERROR)\]/.test(line));
    setText(this._said, `${lines.length === 1 ? "" : `${lines.length} lines … `}${texts.at(-1).trim().split("\n").at(-1)}`, loud ? "cs-last cs-loud" : "cs-last");
    setText(this._log, texts.join("\n"), "");
  }

  /** @param {import("./machine.js").Failure | null} failure */
  showFailure(failure) {
    this.root.classList.toggle("cs-failed", failure !== null);
    this._error.hidden = failure === null;
    if (failure === null) return;
    const { name, reason, lines, data } = worded(failure);
    this._error.replaceChildren(
      lines ? h("pre", { "aria-label": failure.function ? `In ${failure.function}` : "In the function" }, lines) : "",
      h("div", { class: "cs-error-head" }, h("b", {}, name), reason ? `: ${reason}` : ""),
      data ? h("pre", {}, data) : "",
    );
  }
}

/**
 * A failure as Python would print it: the user's lines, then `Name: reason`. Of an error in a function that name is the
 * exception's own, which the message begins with, and which the traceback would say again.
 */
function worded({ code, class: kind, message, traceback, data }) {
  const raised = code === "FunctionError" && /^([A-Za-z_][\w.]*)(?:: ([^]*))?$/.exec(message);
  const [name, reason] = raised ? [raised[1], raised[2] ?? ""] : [kind || code, message];
  const lines = traceback.trimEnd().split("\n");
  if (lines[0].startsWith("Traceback (most recent")) lines.shift();
  const last = lines.findLastIndex((line) => /^\S/.test(line));
  if (last >= 0 && lines.slice(last).join("\n").endsWith(message)) lines.length = last;
  const more = data !== undefined && typeof data !== "string" ? literal(data) : "";
  const indent = Math.min(...lines.filter((line) => line.trim()).map((line) => line.search(/\S/)));
  return { name, reason, lines: lines.map((line) => line.slice(indent)).join("\n"), data: message.includes(more) ? "" : more };
}

/** The style sheet, once per document (or shadow tree, which some hosts use). */
function style(el) {
  const root = el.getRootNode();
  const home = root instanceof ShadowRoot ? root : document.head;
  if (home.querySelector("style[data-cellstore]")) return;
  const sheet = h("style", { "data-cellstore": true });
  sheet.textContent = STYLE;
  home.append(sheet);
}
