"""Where the readable history begins, also after the clock was wrong.

A timestamp is what the clock said, and never falls. If the clock was ahead once, by an hour or by years, then until it is
there again timestamps rise by a nanosecond each, and do not tell how old they are. Their age is known from marks: at such a
time by the clock, which is right now, the newest timestamp was this one.

    clock       ──●──▶ ahead ●──▶  ◀── back  ●────mark────mark────●──▶          the window begins at the newest mark that is
    timestamps  ──●─────────────────────────▶ ●●●●●●●●●●●●●●●●●●●●●●            as old as it is long
"""

from __future__ import annotations

from collections import deque

_MARKS = 20  # in the length of a window


class Window:
    """The stretch of time of which every moment stays readable.

    Invariant  what it leaves out is at least `seconds` old, by the clock as it was since; marks last as long as the process,
               so that after a restart amid such timestamps the window is longer, and never shorter
    """

    def __init__(self, seconds: float) -> None:
        self._length_ns = int(seconds * 1e9)
        self._marks: deque[tuple[int, int]] = deque()  # (clock, newest timestamp then), both rising

    def begin(self, now_ns: int, newest_ts: int) -> int:
        """The timestamp before which nothing need be readable. To be asked now and then."""
        begin, marks = now_ns - self._length_ns, self._marks
        if newest_ts <= now_ns or (marks and now_ns < marks[-1][0]):
            marks.clear()
        if newest_ts <= now_ns:
            return begin
        if not marks or now_ns - marks[-1][0] >= self._length_ns // _MARKS:
            marks.append((now_ns, newest_ts))
        while len(marks) > 1 and marks[1][0] <= begin:
            marks.popleft()
        return marks[0][1] if marks[0][0] <= begin else begin
