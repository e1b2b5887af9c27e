"""Where a client stands, and how timestamps are spelt.

Shape:  a timestamp on the wire is base64 of 8 bytes, unsigned little-endian nanoseconds, always below 2**63
Source: Convex sync protocol, `StateVersion`
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import NamedTuple

from cellstore.errors import ValidationError

TIMESTAMP_MAX = (1 << 63) - 1


@lru_cache(maxsize=256)
def encode_ts(ts: int) -> str:
    """Nanoseconds to the wire's text. 0 → `AAAAAAAAAAA=`. Remembered, because a thousand clients are told the same."""
    return base64.b64encode(ts.to_bytes(8, "little")).decode("ascii")


def decode_ts(text: object, where: str = "ts") -> int:
    """The wire's text to nanoseconds.

    Errors: ValidationError when it is not base64 of exactly 8 bytes, or not below 2**63.
    """
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    ts = int.from_bytes(raw, "little")
    if len(raw) != 8 or ts > TIMESTAMP_MAX:
        raise ValidationError(path=where, expected="a timestamp (base64 of 8 bytes, below 2**63)", got=repr(text)[:60])
    return ts


class StateVersion(NamedTuple):
    """Query-set version, identity version and timestamp of one client.

    Invariant: each transition starts where the one before it ended; `ts` never falls.
    """

    query_set: int = 0
    identity: int = 0
    ts: int = 0

    def to_wire(self) -> dict[str, object]:
        """The JSON object of a Transition's startVersion and endVersion."""
        return {"querySet": self.query_set, "identity": self.identity, "ts": encode_ts(self.ts)}

    @classmethod
    def from_wire(cls, obj: object) -> StateVersion:
        """Inverse of `to_wire`. Errors: ValidationError."""
        if not isinstance(obj, dict):
            raise ValidationError(path="version", expected="an object", got=type(obj).__name__)
        try:
            return cls(int(obj["querySet"]), int(obj["identity"]), decode_ts(obj["ts"]))
        except (KeyError, TypeError, ValueError) as wrong:
            raise ValidationError(path="version", expected="querySet, identity and ts", got=repr(obj)[:80]) from wrong


START = StateVersion()
