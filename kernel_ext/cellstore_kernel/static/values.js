/**
 * Stored values as a reader wants to see them: numbers aligned at the point, ids quiet, None told from "".
 *
 * Everything goes through `textContent`; no value is ever parsed as HTML.
 */

import { Float } from "./codec.js";

export const TEXT_MAX = 240; // characters of a value among others
const ITEMS_MAX = 24;
const DECIMALS_MAX = 6;

/** A DOM element. @param {string} tag @param {Record<string, any>} attributes @param {...(Node|string)} children */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** null, boolean, int, float, string, bytes, list, dict or missing. */
export function kindOf(value) {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (value instanceof Float) return "float";
  if (value instanceof Uint8Array) return "bytes";
  if (Array.isArray(value)) return "list";
  switch (typeof value) {
    case "boolean":
      return "boolean";
    case "bigint":
      return "int";
    case "number":
      return Number.isInteger(value) ? "int" : "float";
    case "string":
      return "string";
  }
  return "dict";
}

export const isNumber = (kind) => kind === "int" || kind === "float";

/** Decimals a float needs; integral floats need one, to look like floats. */
export function decimalsOf(value) {
  const number = Number(value);
  if (!Number.isFinite(number)) return 0;
  const text = String(number);
  if (/e/.test(text)) return 0;
  const point = text.indexOf(".");
  if (point < 0) return 1;
  return Math.min(DECIMALS_MAX, text.length - point - 1);
}

/** A float as Python would print it, or with a fixed number of decimals. */
export function floatText(value, decimals = null) {
  const number = Number(value);
  if (Number.isNaN(number)) return "nan";
  if (!Number.isFinite(number)) return number > 0 ? "inf" : "-inf";
  const text = String(number);
  if (/e/.test(text)) return text;
  if (decimals !== null) return number.toFixed(decimals);
  return text.includes(".") ? text : `${text}.0`;
}

/** Python's way of writing a value, shortened. @returns {string} */
export function literal(value, depth = 0) {
  switch (kindOf(value)) {
    case "missing":
      return "";
    case "null":
      return "None";
    case "boolean":
      return value ? "True" : "False";
    case "int":
      return String(value);
    case "float":
      return floatText(value);
    case "string":
      return depth === 0 ? value : quoted(value);
    case "bytes":
      return `bytes[${value.length}]`;
    case "list":
      if (depth > 2) return "[…]";
      return `[${shortened(value, (item) => literal(item, depth + 1))}]`;
    default:
      if (depth > 2) return "{…}";
      return `{${shortened(Object.entries(value), ([name, inner]) => `${quoted(name)}: ${literal(inner, depth + 1)}`)}}`;
  }
}

/** One value's text and its class, in a column where floats show `decimals`. @returns {[string, string]} */
export function cell(value, decimals = null, name = "", charsMax = TEXT_MAX) {
  const kind = kindOf(value);
  if (name === "_creationTime" && isNumber(kind)) return [momentText(value), "cs-quiet"];
  if (kind === "float") return [floatText(value, decimals), "cs-number"];
  if (kind === "int") return [String(value), "cs-number"];
  if (kind === "null") return ["None", "cs-none"];
  if (kind === "boolean") return [literal(value), value ? "cs-bool" : "cs-bool cs-quiet"];
  const text = literal(value);
  return [text.length > charsMax ? `${text.slice(0, charsMax)}…` : text, name === "_id" ? "cs-id" : `cs-${kind}`];
}

/** Milliseconds since the epoch as local time. */
export function momentText(milliseconds) {
  const date = new Date(Number(milliseconds));
  if (Number.isNaN(date.getTime())) return String(milliseconds);
  return `${date.toLocaleDateString("sv")} ${date.toLocaleTimeString("sv")}`;
}

/** A commit timestamp (ns) as local time of day, with the date when it is not today. */
export function timeText(ts) {
  const date = new Date(Number(ts / 1_000_000n));
  const time = date.toLocaleTimeString("sv");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("sv")} ${time}`;
}

/**
 * The columns of a list of dicts: own fields in order of appearance, then the system fields.
 * @returns {{name: string, numeric: boolean, decimals: number | null}[]}
 */
export function columnsOf(rows, { system = true } = {}) {
  const seen = new Map();
  for (const row of rows) {
    for (const name in row) {
      let column = seen.get(name);
      if (column === undefined) seen.set(name, (column = { name, numbers: 0, others: 0, decimals: null }));
      const kind = kindOf(row[name]);
      if (isNumber(kind)) {
        column.numbers += 1;
        if (kind === "float") column.decimals = Math.max(column.decimals ?? 0, decimalsOf(row[name]));
      } else if (kind !== "null") column.others += 1;
    }
  }
  const rank = (name) => ["_id", "_creationTime"].indexOf(name) + 1;
  return [...seen.values()]
    .filter(({ name }) => system || name !== "_creationTime" || seen.size < 3)
    .sort((a, b) => rank(a.name) - rank(b.name))
    .map(({ name, numbers, others, decimals }) => ({
      name,
      numeric: numbers > 0 && others === 0 && name !== "_creationTime",
      decimals,
    }));
}

/** Is this a list that reads as a table? */
export function isTable(value) {
  return Array.isArray(value) && value.length > 0 && value.every((row) => kindOf(row) === "dict");
}

/** What tells a row from others over time: its id, else its place. */
export function rowKey(row, index) {
  return typeof row._id === "string" ? row._id : `#${index}`;
}

/** Python's order of mixed values, for sorting on screen: nothing < None < numbers < booleans < text < the rest. */
export function compare(a, b) {
  const ranks = { missing: 0, null: 1, int: 2, float: 2, boolean: 3, string: 4, bytes: 5, list: 6, dict: 7 };
  const [rankA, rankB] = [ranks[kindOf(a)], ranks[kindOf(b)]];
  if (rankA !== rankB) return rankA - rankB;
  if (rankA === 2) {
    const [nanA, nanB] = [Number.isNaN(Number(a)), Number.isNaN(Number(b))];
    if (nanA || nanB) return nanA - nanB;
    return a < b ? -1 : a > b ? 1 : 0;
  }
  if (rankA === 4) return a < b ? -1 : a > b ? 1 : 0;
  if (rankA === 3) return a - b;
  const [textA, textB] = [literal(a), literal(b)];
  return textA < textB ? -1 : textA > textB ? 1 : 0;
}

/** Draw the eye to what changed, briefly. */
export function flash(element) {
  if (globalThis.matchMedia?.("(prefers-reduced-motion: reduce)").matches) return;
  element.animate?.([{ backgroundColor: "var(--cs-flash)" }, { backgroundColor: "transparent" }], {
    duration: 1400,
    easing: "ease-out",
  });
}

/** Set an element's text if it differs; true when it did. */
export function setText(element, text, className, title = "") {
  const changed = element.textContent !== text;
  if (changed) element.textContent = text;
  if (element.className !== className) element.className = className;
  if (element.title !== title) element.title = title;
  return changed;
}

function shortened(items, write) {
  const shown = items.slice(0, ITEMS_MAX).map(write);
  return items.length > ITEMS_MAX ? `${shown.join(", ")}, … ${items.length - ITEMS_MAX} more` : shown.join(", ");
}

function quoted(text) {
  return text.includes("'") && !text.includes('"') ? `"${text}"` : `'${text.replaceAll("'", "\\'")}'`;
}
