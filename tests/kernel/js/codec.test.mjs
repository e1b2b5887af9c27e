import assert from "node:assert/strict";
import { test } from "node:test";
import { Float, decode, decodeTs, encode, encodeTs, same } from "../../../kernel_ext/cellstore_kernel/static/codec.js";

test("an int and an equal float stay apart", () => {
  const value = decode('{"int": 7, "float": 7.0, "half": 7.5, "large": 1e300}');
  assert.equal(typeof value.int, "number");
  assert.ok(value.float instanceof Float && value.large instanceof Float);
  assert.equal(+value.float, 7);
  assert.equal(encode(value), '{"int":7,"float":7.0,"half":7.5,"large":1e+300}');
});

test("an int beyond a double's reach keeps every digit", () => {
  assert.equal(encode(decode("[9007199254740993, -9223372036854775808]")), "[9007199254740993,-9223372036854775808]");
});

test("nan, inf, minus zero and bytes survive the round trip", () => {
  for (const text of ['{"$float":"AAAAAAAA+H8="}', '{"$float":"AAAAAAAA8P8="}', "-0.0", '{"$bytes":"AP8="}']) {
    assert.equal(encode(decode(text)), text);
  }
});

test("what only looks special inside a string is left alone", () => {
  const text = '{"a":"1.0, 2.0]","b":"\\"$float\\" 1234567890123456","c":"\\u00e9\\n","d":[1.0]}';
  const value = decode(text);
  assert.equal(value.a, "1.0, 2.0]");
  assert.equal(value.c, "é\n");
  assert.equal(encode(value), text.replace("\\u00e9", "é"));
});

test("the careful reader agrees with JSON.parse wherever both may read", () => {
  const value = { a: [1, 2.5, "x", null, true, false, {}], b: { c: [], d: "\\ \" \u2028" }, e: -3, f: 1e-7 };
  assert.deepEqual(decode(`[1.0, ${JSON.stringify(value)}]`)[1], value);
});

test("a field named __proto__ is a field", () => {
  const value = decode('{"__proto__": 1.0, "a": 2}');
  assert.deepEqual(Object.keys(value), ["__proto__", "a"]);
  assert.equal(Object.getPrototypeOf(value), Object.prototype);
});

for (const broken of ["[1.0", '{"a":1.0,}', "[1.0]]", "1.0.0", "[01.0]", "[1.0, nul]", '["\\x", 1.0]']) {
  test(`broken text is refused: ${broken}`, () => assert.throws(() => decode(broken), SyntaxError));
}

test("timestamps are eight little-endian bytes", () => {
  assert.equal(encodeTs(0n), "AAAAAAAAAAA=");
  assert.equal(encodeTs(1735689600000000000n), "AABXwH5oFhg=");
  assert.equal(decodeTs("AABXwH5oFhg="), 1735689600000000000n);
});

test("same tells what a reader can tell", () => {
  assert.ok(same({ a: [1, new Float(2)], b: null }, { b: null, a: [1, new Float(2)] }));
  assert.ok(!same(new Float(1), 1));
  assert.ok(!same([1, 2], [1, 2, 3]));
  assert.ok(!same({ a: undefined }, {}));
  assert.ok(same(NaN, NaN));
});
