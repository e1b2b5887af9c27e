/**
 * Native JSON, as `cellstore.values.json` writes it: every stored value exactly, as text.
 *
 *     Python              text                              here
 *     int                 7                                 number; BigInt where a number would not be exact
 *     float               7.5                               number
 *     float, integral     7.0   -0.0   1e300                Float, so that 7.0 is not shown as 7
 *     nan, inf            {"$float": base64 of 8 bytes}     number
 *     bytes               {"$bytes": base64}                Uint8Array
 *
 * Invariant: encode(decode(text)) says the same value as text.
 */

/** A float with an integral value. Computes like the number it is; only its looks differ. */
export class Float extends Number {}

// Whatever JSON.parse would flatten: 7.0, 1e300, sixteen digits, marked objects. A hit inside a string costs time, no more.
const NEEDS_CARE = /\.0(?![0-9])|[0-9]{16}|[0-9][eE][+-]?[0-9]+(?=[,\]}\s]|$)|"\$/;

/** The value of native JSON. Throws SyntaxError. @param {string} text @returns {any} */
export function decode(text) {
  return NEEDS_CARE.test(text) ? new Reader(text).read() : JSON.parse(text);
}

/** Native JSON of a value. @param {any} value @returns {string} */
export function encode(value) {
  if (value === null || value === undefined) return "null";
  if (value instanceof Float) return floatToken(+value);
  switch (typeof value) {
    case "bigint":
      return value.toString();
    case "number":
      return Number.isInteger(value) && !Object.is(value, -0) ? BigInt(value).toString() : floatToken(value);
    case "boolean":
    case "string":
      return JSON.stringify(value);
  }
  if (value instanceof Uint8Array) return `{"$bytes":"${toBase64(value)}"}`;
  if (Array.isArray(value)) return `[${value.map(encode).join(",")}]`;
  const fields = Object.entries(value).filter(([, inner]) => inner !== undefined);
  return `{${fields.map(([name, inner]) => `${JSON.stringify(name)}:${encode(inner)}`).join(",")}}`;
}

/** Would a reader see no difference? @param {any} a @param {any} b @returns {boolean} */
export function same(a, b) {
  if (Object.is(a, b)) return true;
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return false;
  if (a.constructor !== b.constructor) return false;
  if (a instanceof Float) return Object.is(+a, +b);
  if (Array.isArray(a) || a instanceof Uint8Array) {
    return a.length === b.length && a.every((item, i) => same(item, b[i]));
  }
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => name in b && same(a[name], b[name]));
}

/** Nanoseconds of a wire timestamp (base64 of 8 bytes, little-endian). @param {string} text @returns {bigint} */
export function decodeTs(text) {
  return new DataView(fromBase64(text).buffer).getBigUint64(0, true);
}

/** @param {bigint} ts @returns {string} */
export function encodeTs(ts) {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, ts, true);
  return toBase64(bytes);
}

function floatToken(number) {
  if (Number.isFinite(number)) {
    if (Object.is(number, -0)) return "-0.0";
    const text = String(number);
    return /[.e]/.test(text) ? text : `${text}.0`;
  }
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setFloat64(0, number, true);
  return `{"$float":"${toBase64(bytes)}"}`;
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

function toBase64(bytes) {
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

function number(token) {
  if (/[.eE]/.test(token)) {
    const value = Number(token);
    return Number.isInteger(value) ? new Float(value) : value;
  }
  const value = Number(token);
  return Number.isSafeInteger(value) ? value : BigInt(token);
}

function unmark(object) {
  const names = Object.keys(object);
  if (names.length !== 1 || !names[0].startsWith("$")) return object;
  if (names[0] === "$bytes") return fromBase64(object.$bytes);
  if (names[0] === "$float") {
    const value = new DataView(fromBase64(object.$float).buffer).getFloat64(0, true);
    return Number.isInteger(value) ? new Float(value) : value;
  }
  return object;
}

const SPACE = /[ \t\r\n]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const STRING = /"(?:[^"\\]|\\.)*"/y;
const WORDS = [["true", true], ["false", false], ["null", null]];

/** JSON by hand, for the texts in which a number's spelling matters. */
class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  read() {
    const value = this.value();
    this.space();
    if (this.at !== this.text.length) throw this.wrong();
    return value;
  }

  value() {
    this.space();
    const char = this.text[this.at];
    if (char === "{") return this.object();
    if (char === "[") return this.array();
    if (char === '"') return this.string();
    for (const [word, value] of WORDS) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return number(this.match(NUMBER));
  }

  object() {
    const object = {};
    this.at += 1;
    if (this.next("}")) return object;
    do {
      this.space();
      const name = this.string();
      if (!this.next(":")) throw this.wrong();
      // a plain assignment to __proto__ would not make a field
      Object.defineProperty(object, name, { value: this.value(), enumerable: true, writable: true, configurable: true });
    } while (this.next(","));
    if (!this.next("}")) throw this.wrong();
    return unmark(object);
  }

  array() {
    const array = [];
    this.at += 1;
    if (this.next("]")) return array;
    do array.push(this.value());
    while (this.next(","));
    if (!this.next("]")) throw this.wrong();
    return array;
  }

  string() {
    const token = this.match(STRING);
    return token.includes("\\") ? JSON.parse(token) : token.slice(1, -1);
  }

  next(char) {
    this.space();
    if (this.text[this.at] !== char) return false;
    this.at += 1;
    return true;
  }

  space() {
    const code = this.text.charCodeAt(this.at);
    if (code === 32 || (code >= 9 && code <= 13)) {
      SPACE.lastIndex = this.at;
      this.at += SPACE.exec(this.text)[0].length;
    }
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found === null || found[0] === "") throw this.wrong();
    this.at += found[0].length;
    return found[0];
  }

  wrong() {
    return new SyntaxError(`not native JSON at ${this.at}: ${this.text.slice(this.at, this.at + 20)}`);
  }
}
