"""Frames between the host and its workers.

Shape      4 bytes big-endian length, then a JSON array of messages; a message is an array that begins with its tag

    host → worker
      start   settings                             once, first: what the worker is and where the store lies
      try     unit                                 does this module load? answered by `tried`
      unit    unit                                 load this module for good, in place of an earlier one; then `loaded`
      forget  module                               the module is gone
      gen     number                               throw away queued calls of earlier generations
      lane    lane_id                              you run the lane from here on, on an empty overlay (0: no longer)
      at      position, ts                         every lane commit up to `position` is durable in the snapshot `ts`
      call    id, gen, lane, kind, path, args, options         args are native JSON, spliced in
      bulk    id, gen, table, ndjson
      tidy                                         you have been idle for a while: give back memory
      cancel  id                                   actions: stop this one
      reply   ask id, outcome                      actions: the answer to an `ask`
      http    id, path, [method, url, path, headers], body in base64, identity, environment variables
                                                   body null: it follows
      body    id, base64                           HTTP actions: a piece of the request's body
      end     id, null or what broke it            there is no more of it
      more    id                                   HTTP actions: a piece has left, another may come

    worker → host
      hello   pid
      tried   module, hash, error or null
      loaded  module, hash, error or null
      slow    id, gen                              this call outstays its budget; take back every call sent after it
      part    id, documents, commit request        some of a bulk insert; they come in order, `done` follows the last
      done    id, outcome, commit request or null
      log     id, line                             actions: a line as it is written
      progress  id, done, total or null, note      actions: how far it is
      head    id, status, headers, length or null  HTTP actions: before the pieces of the body
      piece   id, base64
      took    id                                   a piece of the request's body was taken, another may come
      ask     ask id, call id, kind, path, args, options       actions: a nested call

Messages of one turn travel in one frame: crossing a process costs by the frame, not by the message.
The host never unpickles; a frame above the limit ends the connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from cellstore.errors import InvariantError
from cellstore.runtime.outcome import ErrorInfo, Outcome, ReadIntervals
from cellstore.runtime.traces import plain

Message = list[Any]

HEADER_BYTES = 4
RECEIVE_BYTES = 1 << 18  # at most, at once
FRAME_MAX_BYTES = 1 << 30  # a sanity bound against a torn stream; results have their own knob


def frame(messages: Sequence[Message]) -> bytes:
    """One frame that holds `messages`. Text that is no Unicode is spelt out: whoever waits for the others is to hear of them."""
    try:
        body = orjson.dumps(messages)
    except TypeError:
        body = orjson.dumps(_spelt_out(messages))
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def _spelt_out(part: Any) -> Any:
    if isinstance(part, str):
        return plain(part)
    if isinstance(part, list | tuple):
        return [_spelt_out(each) for each in part]
    return {plain(str(key)): _spelt_out(each) for key, each in part.items()} if isinstance(part, dict) else part


def receive_buffer() -> memoryview:
    """Where a socket puts what it receives. `recv` would get so much memory from the system each time: 11 µs, as long as
    all the rest of receiving a small frame."""
    return memoryview(bytearray(RECEIVE_BYTES))


class FrameReader:
    """Cuts a byte stream into messages. Feed it what arrived, take what is complete."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Message]:
        """Every message that `data` completes, in order. It may be overwritten once the first has been taken."""
        parts = self._parts
        if not parts and len(data) >= HEADER_BYTES and _size(data) == len(data) - HEADER_BYTES:
            yield from orjson.loads(memoryview(data)[HEADER_BYTES:])  # the common case: one whole frame, no copy
            return
        parts += data
        start = 0
        while len(parts) - start >= HEADER_BYTES:
            end = start + HEADER_BYTES + int.from_bytes(parts[start : start + HEADER_BYTES], "big")
            if end - start > FRAME_MAX_BYTES:
                raise InvariantError(f"a worker announced a frame of {end - start} bytes")
            if end > len(parts):
                break
            yield from orjson.loads(bytes(parts[start + HEADER_BYTES : end]))
            start = end
        del parts[:start]


def _size(data: bytes | memoryview) -> int:
    return int.from_bytes(data[:HEADER_BYTES], "big")


def outcome_to_wire(outcome: Outcome) -> list[Any]:
    """An outcome as JSON: positional, because thousands a second cross here."""
    error = outcome.error
    return [
        outcome.ok,
        outcome.value.decode(),
        None if error is None else error_to_wire(error),
        outcome.logs,
        outcome.ts,
        reads_to_wire(outcome.reads) if outcome.reads else None,
        outcome.journal,
        outcome.used_identity,
        outcome.duration_ms,
    ]


def outcome_from_wire(wire: list[Any]) -> Outcome:
    """The outcome that `outcome_to_wire` wrote."""
    ok, value, error, logs, ts, reads, journal, used_identity, duration_ms = wire
    return Outcome(
        ok,
        value.encode(),
        None if error is None else error_from_wire(error),
        logs,
        ts,
        reads_from_wire(reads) if reads else {},
        journal,
        used_identity,
        duration_ms,
    )


def error_to_wire(error: ErrorInfo) -> list[Any]:
    """An error as JSON; its data as native JSON text."""
    from cellstore.values.json import dumps

    data = dumps(error.data).decode() if error.has_data else None
    return [error.code, error.message, data, error.traceback, error.function, error.request_id, error.kind]


def error_from_wire(wire: list[Any]) -> ErrorInfo:
    """The error that `error_to_wire` wrote."""
    from cellstore.values.json import loads

    code, message, data, traceback, function, request_id, kind = wire
    value = None if data is None else loads(data.encode())
    return ErrorInfo(code, message, value, data is not None, traceback, function, request_id, kind)


def reads_to_wire(reads: ReadIntervals) -> list[Any]:
    """Read intervals as JSON: [[index, lo, hi, lo, hi, …], …], keys as hex."""
    return [[index, *(key.hex() for span in spans for key in span)] for index, spans in reads.items()]


def reads_from_wire(wire: list[Any]) -> ReadIntervals:
    """The intervals that `reads_to_wire` wrote."""
    unhex = bytes.fromhex
    return {index: [(unhex(keys[at]), unhex(keys[at + 1])) for at in range(0, len(keys), 2)] for index, *keys in wire}
