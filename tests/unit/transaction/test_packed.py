"""Many inserts by column: they arrive as they left, and a wire that contradicts itself is refused."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellstore.storage.contract import DocWrite
from cellstore.transaction.packed import PACK_FROM, packable, packed, unpacked
from cellstore.transaction.requests import CommitRequest

KEYS = st.binary(min_size=16, max_size=40)


def insert(number: int, keys: tuple[bytes, bytes] = (b"k" * 20, b"l" * 16), table: int = 10_001) -> DocWrite:
    return DocWrite(table, number.to_bytes(16, "big"), b'{"n":%d}' % number, "insert", [
        (1, None, keys[0]), (2, None, keys[1])])  # fmt: skip


@given(st.lists(st.tuples(KEYS, KEYS), min_size=1, max_size=20))
def test_what_was_packed_comes_out_the_same(keys: list[tuple[bytes, bytes]]) -> None:
    writes = [insert(number, pair) for number, pair in enumerate(keys)]
    assert unpacked(orjson.loads(orjson.dumps(packed(writes)))) == writes


def test_a_request_with_many_inserts_crosses_packed_and_whole() -> None:
    request = CommitRequest(5, {}, [insert(number) for number in range(PACK_FROM)], result=b"64")
    wire = orjson.loads(orjson.dumps(request.to_wire()))
    assert wire[2] == []
    assert CommitRequest.from_wire(wire) == request


@pytest.mark.parametrize(
    "writes",
    [
        [insert(number) for number in range(PACK_FROM - 1)],
        [insert(number, table=10_001 + number % 2) for number in range(PACK_FROM)],
        [*(insert(number) for number in range(PACK_FROM)), DocWrite(10_001, b"i" * 16, b"{}", "update", [])],
        [*(insert(number) for number in range(PACK_FROM)), DocWrite(10_001, b"i" * 16, b"{}", "insert", [])],
    ],
    ids=["few", "two tables", "an update", "other indexes"],
)
def test_anything_else_crosses_write_by_write(writes: list[DocWrite]) -> None:
    assert not packable(writes)
    request = CommitRequest(5, {}, writes)
    assert CommitRequest.from_wire(orjson.loads(orjson.dumps(request.to_wire()))) == request


@pytest.mark.parametrize("broken", ["ids", "keys", "bodies"])
def test_columns_that_contradict_each_other_are_refused(broken: str) -> None:
    wire = packed([insert(number) for number in range(3)])
    if broken == "ids":
        wire[1] = packed([insert(1)])[1]
    elif broken == "keys":
        wire[3][0][1] = packed([insert(1)])[3][0][1]
    else:
        wire[2] += "\n{}"
    with pytest.raises(ValueError, match="came with"):
        unpacked(wire)
