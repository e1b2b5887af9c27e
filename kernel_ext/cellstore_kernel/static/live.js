/** `cs.live`: one query's result, whatever its shape. */

import { Frame } from "./frame.js";
import { linkFor, queriesOf, snapshotOf } from "./page.js";
import { TEXT_MAX, cell, columnsOf, flash, h, isTable, kindOf, rowKey, setText } from "./values.js";

const ROWS_MAX = 200;
const PROSE_MAX = 4000; // characters of a single text

export function renderLive({ model, el }) {
  const link = linkFor(model);
  const [[path, args]] = queriesOf(model);
  const frame = new Frame(el, "live", { label: model.get("label"), link });
  const view = new ValueView(frame.body);
  const show = (result, ts) => {
    frame.showFailure(result.failure);
    if (result.failure) view.note("");
    else view.show(result.value);
    frame.showLogs(result.logs);
    frame.showTime(ts);
  };
  const saved = snapshotOf(model);
  if (saved.result) {
    show(saved.result, saved.ts);
    view.note(saved.partial ? `the first rows of ${saved.total}` : "");
  } else view.note("loading …");
  const stop = link.watch(path, args, show);
  return () => {
    stop();
    frame.close();
  };
}

/** Shows values of changing shape in one place, and marks what moved. */
export class ValueView {
  constructor(body) {
    this._note = h("div", { class: "cs-note", hidden: true });
    this._place = h("div", { class: "cs-place" });
    body.append(this._place, this._note);
    this._shape = null;
  }

  note(text) {
    this._note.textContent = text;
    this._note.hidden = !text;
  }

  show(value) {
    const shape = shapeOf(value);
    if (this._shape !== shape) {
      this._shape = shape;
      this._shown = new SHAPES[shape](this._place);
      this._shown.update(value, false);
    } else this._shown.update(value, true);
    this.note(this._shown.note ?? "");
  }
}

function shapeOf(value) {
  if (isTable(value)) return "table";
  const kind = kindOf(value);
  if (kind === "list") return value.length ? "list" : "empty";
  return kind === "dict" ? "dict" : "scalar";
}

class ScalarShape {
  constructor(place) {
    this._text = h("span");
    place.replaceChildren(this._text);
  }

  update(value, known) {
    const [text, className] = cell(value, null, "", PROSE_MAX);
    const size = text.length > 40 ? "cs-scalar cs-prose" : "cs-scalar";
    if (setText(this._text, text, `${size} ${className}`) && known) flash(this._text);
  }
}

class EmptyShape {
  constructor(place) {
    place.replaceChildren(h("span", { class: "cs-none" }, "no rows"));
  }

  update() {}
}

/** Names on the left, values on the right. */
class DictShape {
  constructor(place) {
    this._body = h("tbody");
    place.replaceChildren(h("table", { class: "cs-table cs-dict" }, this._body));
  }

  update(value, known) {
    const names = Object.keys(value);
    patchRows(this._body, names.length, 2, (row, index) => {
      const name = names[index];
      const [text, className] = cell(value[name], null, name, 2 * TEXT_MAX);
      setText(row.children[0], name, "cs-name");
      if (setText(row.children[1], text, className) && known) flash(row.children[1]);
    });
  }
}

/** A list of plain values. */
class ListShape {
  constructor(place) {
    this._body = h("tbody");
    place.replaceChildren(h("table", { class: "cs-table cs-list" }, this._body));
  }

  update(value, known) {
    const [{ numeric, decimals }] = columnsOf(value.map((item) => ({ item })));
    patchRows(this._body, Math.min(value.length, ROWS_MAX), 2, (row, index) => {
      const [text, className] = cell(value[index], numeric ? decimals : null);
      setText(row.children[0], String(index), "cs-index");
      if (setText(row.children[1], text, numeric ? `${className} cs-right` : className) && known) flash(row.children[1]);
    });
    this.note = value.length > ROWS_MAX ? `${ROWS_MAX} of ${value.length} items` : "";
  }
}

/** A list of documents. Rows are known by their id, so that a row that moved does not look changed. */
class TableShape {
  constructor(place) {
    this._head = h("tr");
    this._body = h("tbody");
    this._texts = new Map();
    place.replaceChildren(h("table", { class: "cs-table" }, h("thead", {}, this._head), this._body));
  }

  update(value, known) {
    const rows = value.slice(0, ROWS_MAX);
    const columns = columnsOf(rows, { system: false });
    this._header(columns);
    const before = this._texts;
    this._texts = new Map();
    patchRows(this._body, rows.length, columns.length, (element, index) => {
      const key = rowKey(rows[index], index);
      const old = before.get(key);
      const texts = columns.map((column, at) => {
        const [text, className] = cell(rows[index][column.name], column.decimals, column.name);
        const target = element.children[at];
        setText(target, text, column.numeric ? `${className} cs-right` : className, className === "cs-id" || text.length > 40 ? text : "");
        if (known && (old === undefined || (old.get(column.name) ?? "") !== text)) flash(target);
        return [column.name, text];
      });
      this._texts.set(key, new Map(texts));
    });
    this.note = value.length > rows.length ? `${rows.length} of ${value.length} rows; cs.grid shows all` : "";
  }

  _header(columns) {
    while (this._head.children.length > columns.length) this._head.lastChild.remove();
    columns.forEach((column, at) => {
      const th = this._head.children[at] ?? this._head.appendChild(h("th", { scope: "col" }));
      setText(th, column.name, column.numeric ? "cs-right" : "");
    });
  }
}

const SHAPES = { table: TableShape, dict: DictShape, list: ListShape, empty: EmptyShape, scalar: ScalarShape };

/** Bring a table body to `rows` × `columns` cells and fill it, touching only what differs. */
function patchRows(body, rows, columns, fill) {
  while (body.children.length > rows) body.lastChild.remove();
  for (let index = 0; index < rows; index += 1) {
    const row = body.children[index] ?? body.appendChild(h("tr"));
    while (row.children.length > columns) row.lastChild.remove();
    while (row.children.length < columns) row.append(h("td"));
    fill(row, index);
  }
}
