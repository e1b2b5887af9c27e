"""What clients held when their connections ended, in case they come back.

    connection ends ─▶ keep (session, who) ─▶ the session connects again ─▶ take ─▶ patches of what it holds

A client that comes back names the results it holds by their digests. An equal one costs nothing; of another it is told
the difference, if what it held is still here.

Invariant: what was shown to somebody is given back to a session of the same name and the same principal, to nobody else
Cost:      at most `parted_results_bytes`; whoever went first is forgotten first
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from cellstore.reactivity.principal import Principal
from cellstore.reactivity.result import PATCH_FROM_BYTES, Result

Shown = Mapping[bytes, Result]
"""Results by the digests their client knows them by."""
Key = tuple[str, str, bool, bytes]


class Parted:
    """Results of sessions that have no connection."""

    def __init__(self, bytes_max: int) -> None:
        self.size_bytes = 0
        self._bytes_max = bytes_max
        self._kept: OrderedDict[Key, tuple[Shown, int]] = OrderedDict()

    def keep(self, session: str, who: Principal, shown: Shown) -> None:
        """`session` is gone, and holds this. Short results are not kept: no patch is made of them."""
        long = {digest: result for digest, result in shown.items() if len(result.outcome.value) >= PATCH_FROM_BYTES}
        self.take(session, who)
        if not long:
            return
        size = sum(2 * len(result.outcome.value) for result in long.values())  # and its rows, once they are cut out
        self._kept[_key(session, who)] = long, size
        self.size_bytes += size
        while self.size_bytes > self._bytes_max:
            self.size_bytes -= self._kept.popitem(last=False)[1][1]

    def take(self, session: str, who: Principal) -> Shown:
        """What `session` held, if that is known; from here on it is its own again."""
        shown, size = self._kept.pop(_key(session, who), ({}, 0))
        self.size_bytes -= size
        return shown


def _key(session: str, who: Principal) -> Key:
    return (session, who.kind, who.owner, who.cache_key)
