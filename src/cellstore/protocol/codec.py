"""Text frames to messages and back.

Invariant: `decode_frame` raises nothing but ValidationError, whatever the text; `encode_frame` writes valid JSON only.
Cost:      values already encoded are spliced in, never encoded twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from cellstore.errors import ValidationError
from cellstore.protocol.messages import ClientMessage, Message, parse

CHUNK_CHARS = 5_000_000


def load_json(text: str | bytes, what: str = "frame") -> Any:
    """Parsed JSON. Errors: ValidationError saying where it stops being JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as wrong:
        raise ValidationError(f"{what}: not valid JSON ({wrong})", path=what) from wrong


def decode_frame(text: str | bytes, exact: bool = False) -> ClientMessage:
    """One client message out of one text frame. Errors: ValidationError."""
    try:
        return parse(load_json(text), exact)
    except RecursionError:
        raise ValidationError("frame: nested too deeply", path="frame") from None


def encode_frame(message: Message) -> bytes:
    """The JSON text of a server message, UTF-8."""
    return orjson.dumps(message)


def chunks(text: str, transition_id: str, size_chars: int = CHUNK_CHARS) -> Iterator[Message]:
    """A large Transition as TransitionChunk messages, in order. Only npm clients understand them."""
    total = max(1, -(-len(text) // size_chars))
    for part in range(total):
        yield {
            "type": "TransitionChunk",
            "chunk": text[part * size_chars : (part + 1) * size_chars],
            "partNumber": part,
            "totalParts": total,
            "transitionId": transition_id,
        }
