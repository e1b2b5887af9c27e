/**
 * `cs.form` and `cs.button`: a mutation's arguments as fields, and a push that calls it.
 *
 * The call goes through the page's own socket where there is one, so it works while the kernel is busy. What was
 * pushed cannot be pushed again until it is answered. An action shows how far it is, and can be stopped.
 */

import { Float, decode, encode } from "./codec.js";
import { Frame } from "./frame.js";
import { linkFor } from "./page.js";
import { h, literal, setText } from "./values.js";

const DONE_MS = 2500;
const EMPTY = 'a text is needed; "" is the empty one';

export function renderForm({ model, el }) {
  const link = linkFor(model);
  const { path, kind, fields, text } = model.get("options");
  const frame = new Frame(el, "form", { label: model.get("label"), link });
  const inputs = decode(fields).map(field);
  const rows = inputs.flatMap(({ name, element, note, id }) => [h("label", { for: id }, name), element, note]);
  const push = new Push(link, frame, text, () => {
    const args = {};
    let wrong = false;
    for (const input of inputs) {
      const { value, problem } = input.read();
      input.complain(problem);
      if (problem && !wrong) input.element.focus();
      wrong ||= Boolean(problem);
      if (value !== undefined) args[input.name] = value;
    }
    return wrong ? null : [kind, path, encode(args)];
  });
  push.onDone = () => inputs.forEach((input) => input.clear());
  const form = h("form", { class: "cs-body-form", onsubmit: (event) => (event.preventDefault(), push.go()) });
  form.append(h("div", { class: "cs-fields" }, ...rows, push.row));
  form.addEventListener("keydown", (event) => keepKeys(event, push));
  frame.body.append(form);
  return () => frame.close();
}

export function renderButton({ model, el }) {
  const link = linkFor(model);
  const { path, kind, args, text } = model.get("options");
  const frame = new Frame(el, "button", { label: model.get("label"), link });
  frame.head.hidden = true;
  const push = new Push(link, frame, text, () => [kind, path, args], "button");
  push.button.title = model.get("label");
  frame.body.append(push.row);
  const watch = link.onState(() => {
    frame.head.hidden = link.state === "connected" && !link.problem;
  });
  return () => {
    watch();
    frame.close();
  };
}

/** The button, and what came of pushing it. */
class Push {
  constructor(link, frame, text, collect, type = "submit") {
    this._link = link;
    this._frame = frame;
    this._collect = collect;
    this.onDone = () => {};
    this.button = h("button", { class: "cs-do", type }, text);
    if (type === "button") this.button.addEventListener("click", () => this.go());
    this._outcome = h("span", { class: "cs-outcome", role: "status" });
    this._bar = h("progress", { class: "cs-far", hidden: true, "aria-label": "how far it is" });
    this._halt = h("button", { class: "cs-do", type: "button", hidden: true }, "Stop");
    this.row = h("div", { class: "cs-actions" }, this.button, this._halt, this._bar, this._outcome);
  }

  async go() {
    if (this.button.disabled) return;
    this._say("");
    const call = this._collect();
    if (call === null) return;
    this.button.disabled = true;
    const said = (lines) => this._frame.showLogs(lines);
    const running = this._link.call(...call, (far) => this._show(far), said);
    const slow = setTimeout(() => this._wait(call[0], running), 250);
    try {
      const value = await running.answer;
      this._frame.showFailure(null);
      this._say(value === null ? "done" : `done: ${literal(value)}`, "done");
      this._fading = setTimeout(() => this._say(""), DONE_MS);
      this.onDone();
    } catch (failure) {
      this._say("");
      this._frame.showFailure(failure);
    } finally {
      clearTimeout(slow);
      this.button.disabled = false;
      this._bar.hidden = this._halt.hidden = true;
    }
  }

  /** It takes a moment: say so. An action, which may take long, can be stopped. */
  _wait(kind, running) {
    if (!this._outcome.textContent) this._say("…");
    this._halt.hidden = kind !== "action";
    this._halt.onclick = () => running.stop();
  }

  /** How far an action says it is. */
  _show({ done, total, note }) {
    this._bar.hidden = false;
    if (total === null) this._bar.removeAttribute("value");
    else Object.assign(this._bar, { max: total || 1, value: done });
    const of = total === null || done === total ? "" : ` of ${total.toLocaleString()}`;
    this._say(`${done.toLocaleString()}${of}${note && ` · ${note}`}`);
  }

  _say(text, state = "") {
    clearTimeout(this._fading);
    this._outcome.textContent = text;
    this._outcome.dataset.state = state;
  }
}

/** Even in an input, Shift+Enter would run the cell and letters after Escape would cut cells. */
function keepKeys(event, push) {
  if (event.key === "Escape") return;
  event.stopPropagation();
  if (event.key === "Enter" && (event.shiftKey || event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    push.go();
  }
}

let fieldCount = 0;

/** One argument: its element, how to read it, how to empty it. */
function field(spec) {
  const type = plainType(spec.type);
  const id = `cs-field-${(fieldCount += 1)}`;
  const optional = spec.optional || isNullable(spec.type);
  const initial = spec.default;
  const make = MAKERS[type.type] ?? (type.type === "literal" || type.type === "choice" ? choice : anything);
  const { element, get, set } = make(type, id);
  const hint = hintOf(type, optional);
  const note = h("span", { class: "cs-hint", id: `${id}-note` }, hint);
  element.setAttribute("aria-describedby", note.id);
  const complain = (problem) => {
    element.classList.toggle("cs-wrong", Boolean(problem));
    element.setAttribute("aria-invalid", String(Boolean(problem)));
    setText(note, problem || hint, problem ? "cs-hint cs-problem" : "cs-hint");
  };
  element.addEventListener("input", () => complain(""));
  set(initial);
  return {
    name: spec.name,
    id,
    element,
    note,
    complain,
    read() {
      const { value, problem, empty } = get();
      if (problem) return { problem };
      if (!empty) return { value };
      if (type.type === "string" && initial && !isNullable(spec.type)) return { value: "" }; // who deletes the default means it
      if (spec.optional) return {};
      if (isNullable(spec.type)) return { value: null };
      return { problem: type.type === "string" ? EMPTY : "a value is needed" };
    },
    clear() {
      if (type.type !== "boolean") set(initial);
    },
  };
}

const MAKERS = {
  boolean(_type, id) {
    const element = h("input", { id, type: "checkbox" });
    return { element, get: () => ({ value: element.checked }), set: (value) => (element.checked = value === true) };
  },
  int: (type, id) => numeric(type, id, "1", (text) => (/^-?[0-9]+$/.test(text) ? BigInt(text) : undefined), "a whole number"),
  float: (type, id) => numeric(type, id, "any", (text) => (Number.isNaN(Number(text)) ? undefined : new Float(Number(text))), "a number"),
  string(_type, id) {
    const { element, get, set } = textual(h("input", { id, type: "text", autocomplete: "off" }));
    return { element, set, get: () => (element.value === '""' ? { value: "" } : get()) };
  },
  id: (type, id) => textual(h("input", { id, type: "text", autocomplete: "off", placeholder: `id of ${type.table}` })),
  datetime(_type, id) {
    const element = h("input", { id, type: "datetime-local", step: "1" });
    const get = () => {
      if (!element.value) return { empty: true };
      return { value: `${new Date(element.value).toISOString().slice(0, -1)}000Z` };
    };
    return { element, get, set: (value) => (element.value = value ? localTime(value) : "") };
  },
  date: (_type, id) => textual(h("input", { id, type: "date" })),
};

function textual(element) {
  return {
    element,
    get: () => (element.value === "" ? { empty: true } : { value: element.value }),
    set: (value) => (element.value = value ?? ""),
  };
}

function numeric(_type, id, step, parse, wanted) {
  const element = h("input", { id, type: "text", inputmode: step === "1" ? "numeric" : "decimal", autocomplete: "off" });
  const get = () => {
    const text = element.value.trim();
    if (text === "") return { empty: true };
    const value = parse(text);
    return value === undefined ? { problem: `${wanted}, not ${literal(text, 1)}` } : { value };
  };
  return { element, get, set: (value) => (element.value = value === undefined || value === null ? "" : literal(value)) };
}

/** One of several literals. */
function choice(type, id) {
  const values = type.members ? type.members.map((member) => member.value) : [type.value];
  const element = h("select", { id }, ...values.map((value, at) => h("option", { value: String(at) }, literal(value))));
  const set = (value) => (element.selectedIndex = Math.max(0, values.findIndex((each) => each === value)));
  return { element, get: () => ({ value: values[element.selectedIndex] }), set };
}

/** Whatever has no field of its own is written as JSON. */
function anything(_type, id) {
  const element = h("textarea", { id, rows: "2", spellcheck: "false", placeholder: "JSON" });
  const get = () => {
    if (element.value.trim() === "") return { empty: true };
    try {
      return { value: decode(element.value) };
    } catch (error) {
      return { problem: error.message };
    }
  };
  return { element, get, set: (value) => (element.value = value === undefined ? "" : encode(value)) };
}

function isNullable(type) {
  return type.type === "null" || (type.type === "union" && type.members.some(isNullable));
}

/** The type without its None; a union of literals stays one. */
function plainType(type) {
  if (type.type !== "union") return type;
  const members = type.members.filter((member) => member.type !== "null");
  if (members.length === 1) return plainType(members[0]);
  return members.every((member) => member.type === "literal") ? { type: "choice", members } : { type: "any" };
}

function hintOf(type, optional) {
  const names = { string: "str", array: "list", object: "dict", record: "dict", boolean: "", id: "", choice: "", literal: "", null: "None" };
  return [names[type.type] ?? type.type, optional && type.type !== "boolean" ? "optional" : ""].filter(Boolean).join(", ");
}

function localTime(iso) {
  const date = new Date(iso);
  const shifted = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19);
}
