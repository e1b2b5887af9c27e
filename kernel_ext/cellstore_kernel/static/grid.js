/**
 * `cs.grid`: a live table that stays quick with ten thousand rows.
 *
 * Only rows in sight exist in the page. Order and filter are the reader's own and survive every update; a cell whose
 * value changed lights up once. Keys: arrows, Page Up/Down, Home/End (with Ctrl: the whole table), Enter on a heading
 * sorts, Enter or F2 on a cell edits, Ctrl+C copies, Escape leaves.
 *
 * Invariant: `order` holds the positions in `rows` that pass the filter, sorted; the cursor sits on a row, not on a place.
 */

import { Float, encode } from "./codec.js";
import { Frame } from "./frame.js";
import { linkFor, queriesOf, snapshotOf } from "./page.js";
import { cell, columnsOf, compare, flash, h, isTable, kindOf, literal, rowKey, setText } from "./values.js";

const ROW_PX = 27;
const BORDERS_PX = 2;
const OVERSCAN = 6;
const SAMPLE = 400; // rows looked at to find a column's width
const CHARS_MAX = 42; // of a column's width
const ID_CHARS = 12;
const CELL_PADDING_PX = 22;
const MARK_CHARS = " ↓"; // a heading has room for it
const HEADING = -1;

let grids = 0;
const ruler = globalThis.document?.createElement("canvas").getContext("2d");
const fontOf = (element) => `13px ${getComputedStyle(element).fontFamily}`;

export function renderGrid({ model, el }) {
  const link = linkFor(model);
  const [[path, args]] = queriesOf(model);
  const frame = new Frame(el, "grid", { label: model.get("label"), link });
  const options = model.get("options") ?? {};
  const grid = new Grid(frame, options, (args) => link.call(options.edit.kind, options.edit.path, args).answer);
  const show = (result, ts) => {
    frame.showFailure(result.failure);
    if (!result.failure) grid.update(result.value);
    frame.showLogs(result.logs);
    frame.showTime(ts);
  };
  const saved = snapshotOf(model);
  if (saved.result) {
    show(saved.result, saved.ts);
    if (saved.partial) grid.note(`the first rows of ${saved.total}`);
  }
  const stop = link.watch(path, args, show);
  return () => {
    stop();
    grid.close();
    frame.close();
  };
}

export class Grid {
  /** @param {Frame} frame @param {{height?: number, edit?: object}} options @param {(args: string) => Promise} send */
  constructor(frame, options, send) {
    this.frame = frame;
    this.rows = [];
    this.columns = [];
    this.order = [];
    this._total = 240; // px of all columns
    this._before = new Map(); // row key → row of the update before
    this._sort = null; // {name, down}
    this._needle = "";
    this._texts = new WeakMap(); // row → its text in lower case, for the filter
    this._cursor = { at: 0, column: 0 };
    this._options = options;
    this._send = send;
    this._name = `cs-grid-${(grids += 1)}`;
    this._build();
  }

  _build() {
    this._filter = h("input", {
      class: "cs-filter",
      type: "search",
      placeholder: "Filter",
      "aria-label": "Filter rows",
      oninput: () => this._refilter(),
    });
    this._count = h("span", { class: "cs-count" });
    this._empty = h("div", { class: "cs-empty" });
    this._widths = new Map(); // column name → px; a column never gets narrower under the reader's eyes
    this._head = h("div", { class: "cs-grow cs-ghead", role: "row", "aria-rowindex": "1" });
    this._body = h("div", { class: "cs-gbody", role: "rowgroup" });
    this._sheet = h("div", { class: "cs-sheet" }, this._head, this._empty, this._body);
    this._scroller = h(
      "div",
      { class: "cs-scroller", role: "grid", tabindex: "0", "aria-label": this.frame.root.querySelector(".cs-label").textContent },
      this._sheet,
    );
    this._scroller.style.setProperty("--cs-row", `${ROW_PX}px`);
    this._scroller.addEventListener("scroll", () => this._paint(), { passive: true });
    this.frame.root.addEventListener("keydown", (event) => this._key(event));
    this._body.addEventListener("mousedown", (event) => this._point(event));
    this._body.addEventListener("dblclick", () => this._edit());
    this._head.addEventListener("click", (event) => {
      const column = [...this._head.children].indexOf(event.target.closest(".cs-cell"));
      if (column >= 0) this._sortBy(column);
    });
    this.frame.body.append(h("div", { class: "cs-bar" }, this._filter, this._count), this._scroller);
    this._resize = new ResizeObserver(() => (this._fit(), this._paint()));
    this._resize.observe(this._scroller);
  }

  close() {
    this._resize.disconnect();
  }

  note(text) {
    this._count.textContent = text;
  }

  /** A new result. Anything that is not a list of dicts is shown as one. */
  update(value) {
    const under = this._rowAt(this._cursor.at);
    const key = under && rowKey(under, this.order[this._cursor.at]);
    this._before = new Map(this.rows.map((row, index) => [rowKey(row, index), row]));
    this.rows = asRows(value);
    const columns = columnsOf(this.rows);
    if (columns.length || !this.columns.length) this.columns = columns;
    this._measure();
    this._arrange();
    if (key) {
      const at = this.order.findIndex((index) => rowKey(this.rows[index], index) === key);
      if (at >= 0) this._cursor.at = at;
    }
    this._paint(this._before.size > 0);
  }

  // what is shown, in which order

  _arrange() {
    const words = this._needle.toLowerCase().split(/\s+/).filter(Boolean);
    this.order = [...this.rows.keys()].filter((index) => words.every((word) => this._text(index).includes(word)));
    if (this._sort) {
      const { name, down } = this._sort;
      const sign = down ? -1 : 1;
      this.order.sort((a, b) => sign * compare(this.rows[a][name], this.rows[b][name]) || a - b);
    }
    this._cursor.at = Math.min(this._cursor.at, this.order.length - 1);
    this._cursor.column = Math.min(this._cursor.column, Math.max(0, this.columns.length - 1));
    const all = this.rows.length.toLocaleString("en").replaceAll(",", " ");
    const some = this.order.length.toLocaleString("en").replaceAll(",", " ");
    this.note(words.length ? `${some} of ${all} rows` : `${all} ${this.rows.length === 1 ? "row" : "rows"}`);
    this._scroller.setAttribute("aria-rowcount", String(this.order.length + 1));
    this._scroller.setAttribute("aria-colcount", String(this.columns.length));
    this._body.style.height = `${this.order.length * ROW_PX}px`;
    this._empty.hidden = this.order.length > 0;
    this._empty.textContent = this.rows.length ? "no row matches the filter" : "no rows";
    this._head.hidden = this.columns.length === 0;
    this._fit();
  }

  /** The sheet's size, scroll bars added, up to the height asked for and the width there is. */
  _fit() {
    const { style, offsetWidth, clientWidth, offsetHeight, clientHeight } = this._scroller;
    const height = (Math.max(1, this.order.length) + (this.columns.length ? 1 : 0)) * ROW_PX + BORDERS_PX;
    const heightMax = this._options.height ?? 420;
    const width = this._total + BORDERS_PX;
    const below = width > this.frame.body.clientWidth ? offsetHeight - clientHeight - BORDERS_PX : 0;
    style.height = `${Math.min(heightMax, height + below)}px`;
    style.width = `${width + (height + below > heightMax ? offsetWidth - clientWidth - BORDERS_PX : 0)}px`;
  }

  _text(index) {
    const row = this.rows[index];
    if (!this._texts.has(row)) {
      this._texts.set(row, this.columns.map(({ name }) => literal(row[name])).join("\u0001").toLowerCase());
    }
    return this._texts.get(row);
  }

  _refilter() {
    this._needle = this._filter.value;
    this._arrange();
    this._scroller.scrollTop = 0;
    this._paint();
  }

  _sortBy(column) {
    const { name } = this.columns[column];
    const again = this._sort?.name === name;
    this._sort = again && this._sort.down ? null : { name, down: again };
    this._arrange();
    this._paint();
  }

  _rowAt(at) {
    return this.rows[this.order[at]];
  }

  // drawing

  _measure() {
    const widths = this.columns.map((column) => {
      const px = Math.max(this._widths.get(column.name) ?? 0, this._widthOf(column));
      this._widths.set(column.name, px);
      return px;
    });
    this._total = Math.max(240, widths.reduce((sum, px) => sum + px, 0));
    this._template = `${widths.map((px) => `${px}px`).join(" ")} 1fr`; // the last track is what is left over
    this._sheet.style.width = `${this._total}px`;
    this._header();
  }

  /** What the longest of the first rows' texts takes. */
  _widthOf({ name, decimals }) {
    const charsMax = name === "_id" ? ID_CHARS : CHARS_MAX;
    let longest = name + MARK_CHARS;
    for (const row of this.rows.slice(0, SAMPLE)) {
      const [text] = cell(row[name], decimals, name);
      if (text.length > longest.length) longest = text.slice(0, charsMax);
    }
    ruler.font = fontOf(this.frame.root);
    return Math.ceil(ruler.measureText(longest).width) + CELL_PADDING_PX;
  }

  _header() {
    this._head.style.gridTemplateColumns = this._template;
    fit(this._head, this.columns.length, () => h("div", { role: "columnheader" }));
  }

  _paint(lights = false) {
    this._paintHead();
    const height = this._scroller.clientHeight || 420;
    const first = Math.max(0, Math.floor(this._scroller.scrollTop / ROW_PX) - OVERSCAN);
    const last = Math.min(this.order.length, first + Math.ceil(height / ROW_PX) + 2 * OVERSCAN);
    fit(this._body, Math.max(0, last - first), () => h("div", { class: "cs-grow", role: "row" }));
    for (let at = first; at < last; at += 1) this._paintRow(this._body.children[at - first], at, lights);
    const here = this._cursor.at === HEADING || (this._cursor.at >= first && this._cursor.at < last);
    if (here && this.columns.length) this._scroller.setAttribute("aria-activedescendant", this._cellId(this._cursor.at, this._cursor.column));
    else this._scroller.removeAttribute("aria-activedescendant");
  }

  _paintHead() {
    this.columns.forEach((column, at) => {
      const element = this._head.children[at];
      const sorted = this._sort?.name === column.name ? (this._sort.down ? "descending" : "ascending") : "none";
      const mark = { ascending: " ↑", descending: " ↓", none: "" }[sorted];
      const here = this._cursor.at === HEADING && this._cursor.column === at ? " cs-here" : "";
      setText(element, column.name + mark, `cs-cell${column.numeric ? " cs-right" : ""}${here}`);
      element.setAttribute("aria-sort", sorted);
      element.setAttribute("aria-colindex", String(at + 1));
      element.id = this._cellId(HEADING, at);
    });
  }

  _paintRow(element, at, lights) {
    const index = this.order[at];
    const row = this.rows[index];
    const before = lights ? this._before.get(rowKey(row, index)) : undefined;
    element.style.transform = `translateY(${at * ROW_PX}px)`;
    element.style.gridTemplateColumns = this._template;
    element.setAttribute("aria-rowindex", String(at + 2));
    element.dataset.at = String(at);
    fit(element, this.columns.length, () => h("div", { role: "gridcell" }));
    this.columns.forEach((column, number) => {
      const target = element.children[number];
      if (target.classList.contains("cs-editing")) return;
      const [text, className] = cell(row[column.name], column.decimals, column.name);
      const here = this._cursor.at === at && this._cursor.column === number ? " cs-here" : "";
      const side = column.numeric ? " cs-right" : "";
      setText(target, text, `cs-cell ${className}${side}${here}`, text.length > 40 || className === "cs-id" ? text : "");
      target.setAttribute("aria-colindex", String(number + 1));
      target.id = this._cellId(at, number);
      if (lights && (!before || cell(before[column.name], column.decimals, column.name)[0] !== text)) flash(target);
    });
  }

  _cellId(at, column) {
    return `${this._name}-${at}-${column}`;
  }

  // pointer and keys

  _point(event) {
    const target = event.target.closest(".cs-cell");
    if (!target || target.classList.contains("cs-editing")) return;
    this._moveTo(Number(target.parentElement.dataset.at), [...target.parentElement.children].indexOf(target));
  }

  _moveTo(at, column) {
    this._cursor.at = Math.max(HEADING, Math.min(at, this.order.length - 1));
    this._cursor.column = Math.max(0, Math.min(column, this.columns.length - 1));
    const top = this._cursor.at * ROW_PX;
    const page = this._scroller.clientHeight - ROW_PX;
    if (this._cursor.at <= 0) this._scroller.scrollTop = 0;
    else if (top < this._scroller.scrollTop) this._scroller.scrollTop = top;
    else if (top + ROW_PX > this._scroller.scrollTop + page) this._scroller.scrollTop = top + ROW_PX - page;
    this._paint();
    const shown = document.getElementById(this._cellId(this._cursor.at, this._cursor.column));
    shown?.scrollIntoView?.({ block: "nearest", inline: "nearest" });
  }

  _key(event) {
    if (event.key === "Escape") return this._leave();
    event.stopPropagation(); // the notebook would take letters as commands
    if (event.target !== this._scroller) return undefined;
    const { at, column } = this._cursor;
    const page = Math.max(1, Math.floor(this._scroller.clientHeight / ROW_PX) - 2);
    const whole = event.ctrlKey || event.metaKey;
    const moves = {
      ArrowDown: [at + 1, column],
      ArrowUp: [at - 1, column],
      ArrowRight: [at, column + 1],
      ArrowLeft: [at, column - 1],
      PageDown: [at + page, column],
      PageUp: [Math.max(0, at - page), column],
      Home: [whole ? 0 : at, 0],
      End: [whole ? this.order.length - 1 : at, this.columns.length - 1],
    };
    if (event.key in moves) this._moveTo(...moves[event.key]);
    else if (event.key === "Enter" || event.key === "F2") at === HEADING ? this._sortBy(column) : this._edit();
    else if (event.key === " " && at === HEADING) this._sortBy(column);
    else if (whole && event.key === "c") this._copy();
    else return undefined;
    event.preventDefault();
    return undefined;
  }

  _leave() {
    const notebook = this._scroller.closest(".jp-Notebook");
    document.activeElement?.blur?.();
    notebook?.focus();
  }

  _copy() {
    const row = this._rowAt(this._cursor.at);
    if (row) navigator.clipboard?.writeText(literal(row[this.columns[this._cursor.column].name]));
  }

  // editing

  _edit() {
    const { edit } = this._options;
    const row = this._rowAt(this._cursor.at);
    const column = this.columns[this._cursor.column];
    if (!edit || !row || !column || column.name.startsWith("_") || typeof row._id !== "string") return;
    if (!edit.field && !edit.columns.includes(column.name)) return;
    const target = document.getElementById(this._cellId(this._cursor.at, this._cursor.column));
    const old = row[column.name];
    if (kindOf(old) === "boolean") {
      this._submit(target, row, column.name, !old);
      return;
    }
    const input = h("input", { value: old === null || old === undefined ? "" : literal(old), "aria-label": column.name });
    const finish = (keep) => {
      if (!target.classList.contains("cs-editing")) return;
      const text = input.value;
      target.classList.remove("cs-editing");
      target.textContent = "";
      this._paint();
      this._scroller.focus();
      if (keep && text !== literal(old)) this._submit(target, row, column.name, parseLike(text, old, column));
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    input.addEventListener("blur", () => finish(true));
    target.classList.add("cs-editing");
    target.replaceChildren(input);
    input.select();
    input.focus();
  }

  async _submit(target, row, name, value) {
    const { edit } = this._options;
    const args = edit.field ? { [edit.id]: row._id, [edit.field]: name, [edit.value]: value } : { [edit.id]: row._id, [name]: value };
    target.classList.add("cs-sent");
    try {
      await this._send(encode(args));
      this.frame.showFailure(null);
    } catch (failure) {
      this.frame.showFailure(failure);
    } finally {
      target.classList.remove("cs-sent");
      this._paint();
    }
  }
}

function asRows(value) {
  if (isTable(value)) return value;
  const kind = kindOf(value);
  if (kind === "list") return value.map((item) => (kindOf(item) === "dict" ? item : { value: item }));
  if (kind === "dict" && Array.isArray(value.page)) return asRows(value.page); // one page of .paginate()
  if (kind === "dict") return Object.entries(value).map(([name, inner]) => ({ name, value: inner }));
  return [{ value }];
}

/** What a person typed, as the type the cell had; text where that does not fit, and the mutation's types decide. */
function parseLike(text, old, column) {
  const trimmed = text.trim();
  if (column.numeric || kindOf(old) === "int" || kindOf(old) === "float") {
    if (/^-?[0-9]+$/.test(trimmed)) return kindOf(old) === "float" ? new Float(Number(trimmed)) : BigInt(trimmed);
    if (trimmed !== "" && Number.isFinite(Number(trimmed))) return Number(trimmed);
  }
  if (trimmed === "" && kindOf(old) !== "string") return null;
  return text;
}

function fit(parent, count, make) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) parent.append(make());
}
